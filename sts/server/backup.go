package server

import (
	"crypto/sha256"
	"errors"
	"hash"
	"time"

	"google.golang.org/grpc"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

const (
	maxBackup = time.Hour   // how long a backup may take to be received
	maxStall  = time.Minute // and how long its receiver may take nothing
)

// Backup implements stsv1.AdminServiceServer.
func (a *adminService) Backup(_ *stsv1.BackupRequest, stream grpc.ServerStreamingServer[stsv1.BackupResponse]) error {
	ctx := stream.Context()
	snapshot, err := a.service.Backup(ctx, principalOf(ctx))
	if err != nil {
		return err
	}
	return sendBackup(stream, snapshot)
}

// sendBackup sends a copy and closes it. There is one at a time, so a receiver that
// keeps its connection alive and takes nothing is given up: the stream ends when
// this returns, and with it the call that waits for the receiver.
func sendBackup(stream grpc.ServerStreamingServer[stsv1.BackupResponse], snapshot sts.Snapshot) error {
	w := &backupWriter{stream: stream, sum: sha256.New(), sent: make(chan struct{}, 1)}
	done := make(chan error, 1)
	go func() { done <- w.send(snapshot) }()
	most, stall := time.NewTimer(maxBackup), time.NewTimer(maxStall)
	defer most.Stop()
	defer stall.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-w.sent:
			stall.Reset(maxStall)
		case <-most.C:
			return receivedTooSlowly()
		case <-stall.C:
			return receivedTooSlowly()
		}
	}
}

func receivedTooSlowly() error {
	return &sts.Error{Code: sts.Unavailable, RetryAfter: retryOverload, Message: "the backup was received too slowly and was given up; receive it nearer to the server"}
}

// backupWriter sends what is written to it.
type backupWriter struct {
	stream grpc.ServerStreamingServer[stsv1.BackupResponse]
	sum    hash.Hash
	sent   chan struct{} // has one in it if something was sent
}

func (w *backupWriter) send(snapshot sts.Snapshot) error {
	size, err := snapshot.WriteTo(w)
	if err := errors.Join(err, snapshot.Close()); err != nil {
		return err
	}
	return w.stream.Send(&stsv1.BackupResponse{End: &stsv1.BackupEnd{Size: size, Sha256: w.sum.Sum(nil), Revision: snapshot.Revision()}})
}

func (w *backupWriter) Write(b []byte) (int, error) {
	w.sum.Write(b)
	if err := w.stream.Send(&stsv1.BackupResponse{Data: b}); err != nil {
		return 0, err
	}
	select {
	case w.sent <- struct{}{}:
	default:
	}
	return len(b), nil
}
