package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// run executes one command line and returns the exit code. The environment is
// that of the process.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot(&cli{stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now, zone: time.Local})
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	f, ok := errors.AsType[*failure](err)
	if !ok {
		// What is not a failure of ours was found by the parser of the command line.
		f = misspelled(err)
	}
	if f.message != "" {
		fmt.Fprintf(stderr, "stsctl: %s\n", f.message)
	}
	return f.code
}

// misspelled puts what the parser of the command line says into one line.
func misspelled(err error) *failure {
	what, meant, ok := strings.Cut(strings.TrimSpace(err.Error()), "\n\nDid you mean this?\n")
	if ok {
		what += "; did you mean " + strings.Join(strings.Fields(meant), " or ") + "?"
	}
	return usage("%s; see `stsctl help`", oneLine(what))
}

// cli is what the commands share.
type cli struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time
	zone           *time.Location // of the person who reads

	conn connFlags
}

// newRoot builds the tree of commands.
func newRoot(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "stsctl",
		Short: "Operate a security token service, get and inspect tokens",
		Long: `stsctl talks to a security token service over gRPC: it applies and shows
resources, gets and exchanges tokens, looks into tokens and key sets, and looks
after the signing keys and those of trusted issuers.

Where the server is and who you are comes from the environment, so that no
secret is ever on a command line; see ` + "`stsctl help environment`" + `.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(
		newApply(c), newGet(c), newDelete(c), newExplain(c),
		newToken(c), newExchange(c), newInspect(c),
		newClient(c), newIntrospect(c), newIssuer(c), newKeys(c), newAudit(c), newPolicy(c), newRevocations(c), newRevoke(c), newSecret(c), newStorage(c), newVersion(c),
		environmentTopic(), exitCodesTopic(),
	)
	codeErrors(root)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		needsOne(completion, completion.Commands())
	}
	return root
}

// noArgs says what to write instead of arguments.
func noArgs(instead string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return usage("%s takes no arguments; %s", cmd.Name(), instead)
	}
}

// codeErrors gives the errors of commands that are not failures, which come from
// writing the result, their exit code. Those of the command line have none yet
// when [run] sees them.
func codeErrors(cmd *cobra.Command) {
	if inner := cmd.RunE; inner != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			err := inner(cmd, args)
			if _, coded := errors.AsType[*failure](err); err == nil || coded {
				return err
			}
			return badInput("writing the result: %v", err)
		}
	}
	for _, sub := range cmd.Commands() {
		codeErrors(sub)
	}
}

// group is a command that only has commands below it.
func group(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Long: long}
	g.AddCommand(commands...)
	needsOne(g, commands)
	return g
}

// needsOne refuses a command that only has commands below it without one of them.
func needsOne(g *cobra.Command, commands []*cobra.Command) {
	var names []string
	for _, sub := range commands {
		names = append(names, sub.Name())
	}
	g.Args = cobra.ArbitraryArgs
	g.RunE = func(cmd *cobra.Command, _ []string) error {
		return usage("%s needs one of: %s", cmd.CommandPath(), strings.Join(names, ", "))
	}
}

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `The exit code says what to do next, for scripts:

  0  done
  1  the server refused; the message has the reason
  2  the command line is wrong
  3  the server cannot be reached or is temporarily unavailable; try again
  4  there are problems in files or in what was read, or the result could not be
     written
  5  a token could not be verified; do not trust it`,
	}
}

func environmentTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "environment",
		Short: "Where the server is, and who you are",
		Long: `stsctl reads these variables. A flag, where there is one, wins; then the file of
--env-file; then the environment.

  STS_GRPC           address of the server, HOST:PORT       --addr
  STS_ISSUER         issuer identifier of the server        --issuer
  STS_ADMIN_SOCKET   admin socket, on the server's machine
  STS_ADMIN_TOKEN    token for the admin interface          --admin-token-file
  STS_CLIENT_ID      client that asks for tokens            --client-id
  STS_CLIENT_SECRET  its secret                             --client-secret-file
  STS_CLIENT_KEY     file with its private key              --client-key
  STS_CLIENT_ASSERTION_FILE  token of its platform  --client-assertion-file
  STS_CLIENT_ASSERTION       such a token itself
  STS_TLS_CERT       file with its certificate              --tls-cert
  STS_TLS_KEY        file with the key of that              --tls-key

Commands for administrators use the admin socket if STS_ADMIN_SOCKET names one,
or if STS_GRPC is not set and there is one at ` + defaultSocket + `. The flags
--addr, --admin-token-file and --tls-cert say otherwise. Over the socket the
server knows you by your user. Elsewhere it takes a token, such as
` + "`stsctl token --audience ISSUER/v1 -o token`" + ` prints for a client that may,
the secret of admin.token_file, or a certificate that admin.clients names.

A development server writes such a file; use it with ` + "`--env-file DIR/dev.env`" + `
or, in a shell, ` + "`set -a; . DIR/dev.env; set +a`" + `.

No flag takes a secret as its value: command lines are seen by every process of
the machine, kept in the history of the shell and in the logs of CI systems. Use
the variables, or files that only you can read.

The connection uses TLS. It is plain only if the address is a loopback address,
neither --ca-file nor --tls-cert is given and the issuer identifier does not
start with https.`,
	}
}
