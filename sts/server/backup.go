package server

import (
	"crypto/sha256"
	"hash"
	"time"

	"google.golang.org/grpc"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// maxBackup is how long a backup may take to be received.
const maxBackup = time.Hour

// Backup implements stsv1.AdminServiceServer.
func (a *adminService) Backup(_ *stsv1.BackupRequest, stream grpc.ServerStreamingServer[stsv1.BackupResponse]) error {
	ctx := stream.Context()
	k, _ := callOf(ctx)
	snapshot, err := a.service.Backup(ctx, k.caller.principal)
	if err != nil {
		return err
	}
	defer snapshot.Close()
	w := &backupWriter{stream: stream, sum: sha256.New(), until: time.Now().Add(maxBackup)}
	size, err := snapshot.WriteTo(w)
	if err != nil {
		return err
	}
	return stream.Send(&stsv1.BackupResponse{End: &stsv1.BackupEnd{Size: size, Sha256: w.sum.Sum(nil), Revision: snapshot.Revision()}})
}

// backupWriter sends what is written to it.
type backupWriter struct {
	stream grpc.ServerStreamingServer[stsv1.BackupResponse]
	sum    hash.Hash
	until  time.Time
}

func (w *backupWriter) Write(b []byte) (int, error) {
	if time.Now().After(w.until) {
		return 0, &sts.Error{Code: sts.Unavailable, RetryAfter: retryOverload, Message: "the backup was received too slowly and was given up; receive it nearer to the server"}
	}
	w.sum.Write(b)
	if err := w.stream.Send(&stsv1.BackupResponse{Data: b}); err != nil {
		return 0, err
	}
	return len(b), nil
}
