package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// memSnapshots makes copies of some bytes.
type memSnapshots struct {
	content []byte
	err     error // of Snapshot
	broken  error // of writing the copy
	open    atomic.Int64
}

func (m *memSnapshots) Snapshot(context.Context) (sts.Snapshot, error) {
	if m.err != nil {
		return nil, m.err
	}
	m.open.Add(1)
	return &memSnapshot{m, bytes.NewReader(m.content)}, nil
}

type memSnapshot struct {
	of *memSnapshots
	*bytes.Reader
}

func (s *memSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{s.Reader}, make([]byte, 100_000))
	return n, errors.Join(err, s.of.broken)
}

func (s *memSnapshot) Revision() int64 { return 77 }

func (s *memSnapshot) Close() error { s.of.open.Add(-1); return nil }

// receive returns what a backup has, and its end.
func receiveBackup(t *testing.T, f *fixture) ([]byte, *stsv1.BackupEnd, error) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+f.admin)
	stream, err := stsv1.NewAdminServiceClient(f.conn).Backup(ctx, &stsv1.BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	var end *stsv1.BackupEnd
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return got, end, nil
		}
		if err != nil {
			return got, end, err
		}
		if end != nil {
			t.Error("something comes after the end")
		}
		got, end = append(got, m.GetData()...), m.GetEnd()
	}
}

// TestBackup receives a copy of the store [F55]. It is recorded before it leaves.
func TestBackup(t *testing.T) {
	f := newFixture(t)
	f.backups.content = bytes.Repeat([]byte("0123456789"), 70_000)
	got, end, err := receiveBackup(t, f)
	sum := sha256.Sum256(f.backups.content)
	if err != nil || !bytes.Equal(got, f.backups.content) || end.GetSize() != int64(len(got)) || !bytes.Equal(end.GetSha256(), sum[:]) || end.GetRevision() != 77 {
		t.Fatalf("%d bytes, end %v, %v", len(got), end, err)
	}
	records := f.audit.all()
	if len(records) != 1 || records[0].Event != sts.EventAdmin || records[0].Outcome != "allow" || records[0].Admin == nil ||
		records[0].Admin.Action != "backup" || records[0].Admin.By.Name == "" || records[0].Decision == "" {
		t.Fatalf("records %+v", records)
	}

	f.backups.broken = errors.New("the disk is gone")
	if got, end, err := receiveBackup(t, f); err == nil || end != nil {
		t.Errorf("a copy that broke off: %d bytes, end %v, %v", len(got), end, err)
	}
	f.backups.broken = nil
	f.audit.fail(errors.New("the audit log is full"))
	if got, _, err := receiveBackup(t, f); answerOf(err).code != sts.Unavailable || len(got) > 0 {
		t.Errorf("without a record: %d bytes, %v", len(got), err)
	}
	f.audit.fail(nil)
	for _, c := range []struct {
		err  error
		grpc codes.Code
		code sts.Code
	}{
		{sts.ErrBusy, codes.Unavailable, sts.Unavailable},
		{errors.New("secret path"), codes.Unavailable, sts.Unavailable},
		{sts.ErrNoSnapshots, codes.InvalidArgument, sts.InvalidRequest},
	} {
		f.backups.err = c.err
		got, _, err := receiveBackup(t, f)
		if a := answerOf(err); a.grpc != c.grpc || a.code != c.code || len(got) > 0 {
			t.Errorf("%v: %d bytes, %v", c.err, len(got), err)
		}
		if strings.Contains(err.Error(), "secret path") {
			t.Errorf("the caller is told %v", err)
		}
	}
	if n := f.backups.open.Load(); n != 0 {
		t.Errorf("%d copies were not closed", n)
	}
}

// slowReceiver takes a message after each while, and after some no more, as one
// does that keeps its connection alive and does not read.
type slowReceiver struct {
	grpc.ServerStreamingServer[stsv1.BackupResponse]
	ctx   context.Context
	each  time.Duration
	takes int
}

func (r *slowReceiver) Send(*stsv1.BackupResponse) error {
	if r.takes == 0 {
		<-r.ctx.Done()
		return r.ctx.Err()
	}
	r.takes--
	time.Sleep(r.each)
	return r.ctx.Err()
}

// TestBackupSlowReceiver holds that nobody keeps the one copy that there may be.
func TestBackupSlowReceiver(t *testing.T) {
	for name, row := range map[string]struct {
		receiver slowReceiver
		after    time.Duration // 0: it gets all
	}{
		"reads":               {slowReceiver{each: 30 * time.Second, takes: 1000}, 0},
		"reads nothing":       {slowReceiver{}, time.Minute},
		"stops":               {slowReceiver{each: 10 * time.Second, takes: 3}, 90 * time.Second},
		"reads now and then":  {slowReceiver{each: 59 * time.Second, takes: 1000}, time.Hour},
		"takes too long once": {slowReceiver{each: 61 * time.Second, takes: 1000}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, end := context.WithCancel(t.Context())
				row.receiver.ctx = ctx
				m := &memSnapshots{content: make([]byte, 100*100_000)}
				snapshot, err := m.Snapshot(ctx)
				if err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				err = sendBackup(&row.receiver, snapshot)
				took := time.Since(begin)
				e, refused := errors.AsType[*sts.Error](err)
				if row.after == 0 && err != nil || row.after != 0 && (!refused || e.Code != sts.Unavailable || took != row.after) {
					t.Errorf("after %s: %v", took, err)
				}
				end() // as grpc does when the handler has returned
				time.Sleep(time.Hour)
				if n := m.open.Load(); n != 0 {
					t.Errorf("%d copies are open", n)
				}
			})
		})
	}
}
