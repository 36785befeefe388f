package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/workload-sts/sts/sts"
)

func newSecret(c *cli) *cobra.Command {
	return group("secret", "Make client secrets and their hashes",
		`Make client secrets and their hashes. The server only ever sees the hash, which
goes into the Client resource; the secret goes to the workload.`,
		newSecretNew(c), newSecretHash(c))
}

func newSecretNew(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Make a new secret",
		Long: `Make a new secret with 256 bits of entropy and print it with its hash. Nothing
is stored: copy both now.

A Client can have two secrets at a time, so that one can be replaced without an
interruption: add the new one, give it to the workload, remove the old one.`,
		Example: "  stsctl secret new\n  stsctl secret new -o json > secret.json",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(cmd, "text", "json", "yaml")
	cmd.RunE = func(*cobra.Command, []string) error {
		secret, hash := sts.NewSecret()
		v := struct {
			Secret string `json:"secret"`
			Hash   string `json:"hash"`
		}{secret, hash}
		if done, err := out.write(c.stdout, v); done {
			return err
		}
		_, err := fmt.Fprintf(c.stdout, "# for the workload; it cannot be shown again\n%s\n\n# for the Client resource\nsecrets:\n  - hash: %s\n", secret, hash)
		return err
	}
	return cmd
}

func newSecretHash(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "hash",
		Short: "Hash a secret that you have",
		Long: `Read a secret from standard input and print its hash for a Client resource. A
newline at its end does not count. A secret that is too short for 256 bits of
entropy is refused, since the hash is a fast one.`,
		Example: "  stsctl secret hash < secret.txt",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			data, err := io.ReadAll(io.LimitReader(bufio.NewReader(c.stdin), maxSecret+1))
			if err != nil {
				return badInput("reading standard input: %v", err)
			}
			secret := strings.TrimRight(string(data), "\r\n")
			if len(data) > maxSecret || strings.ContainsAny(secret, "\r\n") {
				return badInput("standard input must be one line with the secret, of at most %d characters", maxSecret)
			}
			hash, err := sts.HashSecret(secret)
			if errors.Is(err, sts.ErrShortSecret) {
				return badInput("%v", err)
			}
			if err != nil {
				return badInput("hashing: %v", err)
			}
			_, err = fmt.Fprintln(c.stdout, hash)
			return err
		},
	}
}

// maxSecret is the longest secret that can be presented, in characters.
const maxSecret = 4000
