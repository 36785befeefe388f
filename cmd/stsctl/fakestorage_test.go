package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/storage"
)

// Backup sends, one after the other: a whole
// one, one that lost a byte on its way, one without an end, and a refusal.
func (f *fakeServer) Backup(_ *stsv1.BackupRequest, stream grpc.ServerStreamingServer[stsv1.BackupResponse]) error {
	if err := f.authorize(stream.Context()); err != nil {
		return err
	}
	content, revision, err := fakeStore()
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.backups++
	nth := f.backups
	f.mu.Unlock()
	if nth == 4 {
		return f.refusal(codes.Unavailable, "temporarily_unavailable", "another backup is being made; try again when it is done")
	}
	sum := sha256.Sum256(content)
	for part := range slices.Chunk(content, 10_000) {
		if nth == 2 && len(part) < 10_000 {
			part = part[1:]
		}
		if err := stream.Send(&stsv1.BackupResponse{Data: part}); err != nil {
			return err
		}
	}
	if nth == 3 {
		return nil
	}
	return stream.Send(&stsv1.BackupResponse{End: &stsv1.BackupEnd{Size: int64(len(content)), Sha256: sum[:], Revision: revision}})
}

// fakeStore returns the file of a store.
func fakeStore() (content []byte, revision int64, err error) {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		return nil, 0, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "sts.db")
	kv, err := storage.OpenBolt(path, storage.BoltOptions{})
	if err != nil {
		return nil, 0, err
	}
	for i := range 12 {
		if revision, _, err = kv.Txn(context.Background(), nil, []storage.Op{{Key: fmt.Sprint("k", i%10), Value: make([]byte, 5000)}}); err != nil {
			return nil, 0, err
		}
	}
	if err := kv.Close(); err != nil {
		return nil, 0, err
	}
	content, err = os.ReadFile(path)
	return content, revision, err
}
