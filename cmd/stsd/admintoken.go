package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
)

func replaceAdminTokenCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "replace-admin-token --config FILE",
		Short: "Replace a lost admin token, with the server stopped",
		Long: `Replace the admin token and print the new one, once. The old one stops working.

The server must be stopped: it holds the store, and whoever may read and write
the store may do anything. Clients, rules and signing keys stay as they are.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return replaceAdminToken(cmd.Context(), config, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "the configuration `file` of the server")
	_ = cmd.MarkFlagRequired("config") // the flag is there
	return cmd
}

func replaceAdminToken(ctx context.Context, file string, stdout io.Writer) error {
	c, err := loadConfig(file)
	if err != nil {
		return err
	}
	if _, err := os.Stat(c.Storage.BoltFile); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no store at %s yet; the first start of the server makes one and prints an admin token", c.Storage.BoltFile)
	}
	kv, err := storage.OpenBolt(c.Storage.BoltFile, storage.BoltOptions{})
	if err != nil {
		return err
	}
	token, err := sts.ReplaceAdmin(ctx, storage.NewStore(kv))
	if err != nil {
		return errors.Join(err, kv.Close())
	}
	printAdminToken(stdout, token)
	return kv.Close()
}

func printAdminToken(w io.Writer, token string) {
	fmt.Fprintf(w, "This is the admin token. It is not shown again:\n%s\n", token)
}
