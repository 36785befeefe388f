package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/workload-sts/sts/sts"
)

// run executes a command line and returns the exit code: 0 for success, 1 for a
// failure that was reported on stderr.
func run(args []string, stdout, stderr io.Writer) int {
	// The first signal asks for a graceful stop; after that they have their default
	// effect, so that a second one ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	// Who reads our output may go away, and that is an error of a write, not the end.
	signal.Ignore(syscall.SIGPIPE)

	root := &cobra.Command{
		Use:           "stsd",
		Short:         "Security token service for workloads",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(serveCommand(), checkCommand(), versionCommand())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		report(stderr, err)
		return 1
	}
	return 0
}

// report prints why a command failed, and where it is about resources, what is
// wrong with each.
func report(w io.Writer, err error) {
	prefix := "stsd: "
	if _, ok := errors.AsType[problems](err); ok {
		prefix = "" // each line begins with its place in the file
	}
	fmt.Fprintln(w, prefix+err.Error())
	if e, ok := errors.AsType[*sts.Error](err); ok {
		for _, p := range e.Problems {
			fmt.Fprintf(w, "%s: %s: %s\n", p.Ref, p.Field, p.Message)
		}
	}
}

func serveCommand() *cobra.Command {
	var config string
	var dev devOptions
	cmd := &cobra.Command{
		Use:   "serve (--config FILE | --dev --data DIR)",
		Short: "Run the service",
		Long: `Run the service until SIGINT or SIGTERM, then let requests in flight finish. A
second signal ends it at once.

With --config the service is set up by a file; see the configuration reference.
With --dev it sets itself up in a directory: an embedded database, a signing key
encrypted at rest, a demo client, audience and rule. A development server listens
on loopback addresses only.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dev.enabled {
				return serveDev(cmd.Context(), dev, cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return serveConfig(cmd.Context(), config, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", "", "run as this configuration `file` says")
	f.BoolVar(&dev.enabled, "dev", false, "run a development server on loopback")
	f.StringVar(&dev.data, "data", ".dev", "with --dev: keep data in this `directory`")
	f.StringVar(&dev.http, "http", "127.0.0.1:8080", "with --dev: serve HTTP on this `address`")
	f.StringVar(&dev.grpc, "grpc", "127.0.0.1:8081", "with --dev: serve gRPC on this `address`")
	cmd.MarkFlagsOneRequired("config", "dev")
	cmd.MarkFlagsMutuallyExclusive("config", "dev")
	for _, name := range []string{"data", "http", "grpc"} {
		cmd.MarkFlagsMutuallyExclusive("config", name)
	}
	return cmd
}

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file without starting",
		Long: `Check a configuration file without starting: everything that is wrong is printed
at once, one problem a line, as FILE:LINE:COLUMN: KEY: what is wrong.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("check takes one file; write `stsd check stsd.yaml`")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := loadConfig(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", args[0])
			return nil
		},
	}
}
