package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/storage"
)

func newStorageBackup(c *cli) *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy the store of the running server, or one in a file",
		Long: `Copy the store of the running server as it is at one moment, while it serves.
FILE must not be there. It gets its name when it is on the disk, all bytes that
the server has sent are in it, and every page and entry was checked; if anything
fails, no file is left.

With --from bolt:FILE the copy is made of a file that no server uses. A store in
etcd is backed up with etcd's own: ` + "`etcdctl snapshot save`" + `.`,
		Example: "  stsctl storage backup /backup/sts-$(date +%F).db\n  stsctl storage backup --from bolt:/var/lib/sts/sts.db /backup/sts.db",
		Args:    oneFile("the file to make"),
	}
	cmd.Flags().StringVar(&from, "from", "", "copy a store that no server uses, `bolt:FILE`, instead")
	c.conn.admin(cmd)
	cmd.Flags().Lookup("timeout").DefValue = "1h0m0s"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var info storage.BoltInfo
		var err error
		if from != "" {
			var path string
			if path, err = boltPath("--from", from); err != nil {
				return err
			}
			info, err = storage.BackupBolt(path, args[0])
		} else {
			if !cmd.Flags().Changed("timeout") {
				c.conn.timeout = time.Hour
			}
			info, err = c.backup(cmd.Context(), args[0])
		}
		if _, coded := errors.AsType[*failure](err); err != nil && !coded {
			err = badInput("%v", err)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.stdout, "%s is a whole backup: %s\n", args[0], described(info))
		return err
	}
	return cmd
}

// backup receives a copy of the store of the server.
func (c *cli) backup(ctx context.Context, to string) (storage.BoltInfo, error) {
	if err := c.conn.load(); err != nil {
		return storage.BoltInfo{}, err
	}
	var end *stsv1.BackupEnd
	return storage.WriteBackup(to, func(w io.Writer) error {
		// What could not be written is no fault of the server's.
		var local error
		err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
			stream, err := admin.Backup(ctx, &stsv1.BackupRequest{})
			if err != nil {
				return err
			}
			end, local, err = receiveBackup(stream, w)
			return err
		})
		return errors.Join(local, err)
	}, func(info storage.BoltInfo) error {
		if info.Revision != end.GetRevision() {
			return fmt.Errorf("it has revision %d, the server has sent %d", info.Revision, end.GetRevision())
		}
		return nil
	})
}

// receiveBackup writes what comes, and compares it with what the server says at the
// end. local is what is wrong on this side, or with what was received.
func receiveBackup(stream grpc.ServerStreamingClient[stsv1.BackupResponse], w io.Writer) (end *stsv1.BackupEnd, local, err error) {
	sum, size := sha256.New(), int64(0)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the server ended the copy before its end"), nil
		}
		if err != nil {
			return nil, nil, err
		}
		if end := m.GetEnd(); end != nil {
			if end.GetSize() != size || !bytes.Equal(end.GetSha256(), sum.Sum(nil)) {
				return nil, fmt.Errorf("%d bytes were received, they are not the %d that the server has sent", size, end.GetSize()), nil
			}
			return end, nil, nil
		}
		sum.Write(m.GetData())
		size += int64(len(m.GetData()))
		if _, err := w.Write(m.GetData()); err != nil {
			return nil, err, nil
		}
	}
}
