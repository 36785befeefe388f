package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/storage"
)

func newAudit(c *cli) *cobra.Command {
	return group("audit", "Verify and search audit logs",
		`Verify and search the files of an audit log. They are read where they are; no
server is asked. Give rotated files oldest first, as the shell sorts them; those
that end in .gz do as well:

  stsctl audit verify audit*.jsonl`,
		newAuditVerify(c), newAuditChains(c), newAuditSearch(c))
}

// auditVerify is what a log is held to.
type auditVerify struct {
	jwks   string
	expect []string
	closed bool
	server bool
}

func newAuditVerify(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Hold an audit log to be what was written",
		Long: `Hold the files of an audit log to be one chain that nobody changed: every record
has the hash of the one before, and checkpoints are signed by the server. The
first record that is bad is named, with its file and line; the exit code is 5.

The log has the public keys itself, also those that are not published any more.
Whoever makes up a whole log makes up its keys too, so say which keys you trust:

  --jwks FILE|URL   keys that you have, or that the server publishes at URL
  --issuer URL      keys that this server publishes, by its discovery document

Checkpoints by other keys count if the log had the key before, in a part that a
checkpoint that counts covers.

What follows the last checkpoint is chained and not signed: whoever can write
the file can change it. They can also put back an older state of the whole log.
Keep the last checkpoint that this command prints, or those that a sink gets, on
another machine, and give it the next time:

  --expect-checkpoint JWS|@FILE
  --server               the one that the server keeps in its store`,
		Example: "  stsctl audit verify --issuer https://sts.example.com audit*.jsonl\n  stsctl audit verify --jwks jwks.json --expect-checkpoint @last.jws audit*.jsonl",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("audit verify needs files; write `stsctl audit verify audit*.jsonl`")
			}
			return nil
		},
	}
	var o auditVerify
	cmd.Flags().StringVar(&o.jwks, "jwks", "", "`FILE` or URL with the JWK set of the server")
	cmd.Flags().StringArrayVar(&o.expect, "expect-checkpoint", nil, "signed checkpoint that the log must have, `JWS` or @FILE; can be given several times")
	cmd.Flags().BoolVar(&o.closed, "closed", false, "the log is of a server that was stopped, so it must end with a checkpoint")
	cmd.Flags().BoolVar(&o.server, "server", false, "hold the log to the checkpoint that the server keeps, which needs a connection as an administrator")
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.Flag("issuer").Usage = "issuer identifier, a `URL`: trust the keys that this server publishes; STS_ISSUER alone does not ask for that"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		// Not by STS_ISSUER alone: a log can be verified where the server is not reached.
		if err := c.conn.load(); err != nil {
			return err
		}
		return c.verifyAudit(cmd.Context(), args, o, out)
	}
	return cmd
}

func (c *cli) verifyAudit(ctx context.Context, files []string, o auditVerify, out *output) error {
	v := storage.AuditVerifier{}
	var err error
	if v.Keys, err = c.auditKeys(ctx, o.jwks); err != nil {
		return err
	}
	for _, e := range o.expect {
		jws, err := c.tokenArgument(e)
		if err != nil {
			return err
		}
		v.Expect = append(v.Expect, strings.TrimSpace(jws))
	}
	if o.server {
		if v.Kept, err = c.keptCheckpoints(ctx); err != nil {
			return err
		}
	}
	for _, name := range files {
		err := readAuditFile(name, func(r io.Reader) error { return v.File(name, r) })
		if err != nil {
			return auditFailure(err)
		}
	}
	report, err := v.Report()
	if err != nil {
		return auditFailure(err)
	}
	if _, known := v.Kept[report.Chain]; o.server && !known {
		return unverified("the server does not know the chain %s: it is the log of another server, or was made by somebody else", oneLine(report.Chain))
	}
	if written, err := out.write(c.stdout, report); err != nil {
		return err
	} else if !written {
		c.showAuditReport(report)
	}
	if o.closed && !report.Closed && report.Stranger != "" {
		return unverified("the log does not end with a checkpoint that counts: the last is by %s, %s", oneLine(report.Stranger), whoseKey)
	}
	if o.closed && !report.Closed {
		return unverified("the log does not end with a checkpoint: it was truncated, or its server did not stop by itself")
	}
	return nil
}

// auditKeys returns the keys that are trusted, none if none were asked for.
func (c *cli) auditKeys(ctx context.Context, jwks string) (jose.KeySet, error) {
	ctx, cancel := context.WithTimeout(ctx, c.conn.timeout)
	defer cancel()
	var data []byte
	switch {
	case jwks == "" && c.conn.issuer == "":
		return jose.KeySet{}, nil
	case jwks == "":
		return c.keysOf(ctx, c.conn.issuer)
	case strings.Contains(jwks, "://"):
		f, err := c.newFetcher()
		if err != nil {
			return jose.KeySet{}, err
		}
		if data, err = f.get(ctx, jwks); err != nil {
			return jose.KeySet{}, err
		}
	default:
		var err error
		if data, err = os.ReadFile(jwks); err != nil {
			return jose.KeySet{}, badInput("%v", err)
		}
	}
	set, _, err := jose.ParseKeySet(data)
	if err != nil {
		return set, badInput("%s is not a key set: %v", jwks, err)
	}
	if set.Len() == 0 {
		return set, badInput("%s has no key that can verify a signature", jwks)
	}
	return set, nil
}

// readAuditFile opens a file, compressed or not.
func readAuditFile(name string, read func(io.Reader) error) error {
	f, err := os.Open(name)
	if err != nil {
		return badInput("%v", err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	if magic, _ := r.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) { // a shorter file is not compressed
		return read(r)
	}
	z, err := gzip.NewReader(r)
	if err != nil {
		return badInput("%s: %v", name, err)
	}
	return read(z)
}

// auditFailure gives an error its exit code: a log that is not what it must be is
// not to be trusted.
func auditFailure(err error) error {
	if _, coded := errors.AsType[*failure](err); coded {
		return err
	}
	if fault, ok := errors.AsType[*storage.AuditFault](err); ok {
		return unverified("%s", oneLine(fault.Error()))
	}
	return badInput("%s", oneLine(err.Error()))
}

// moment reads a time, or how long ago it was.
func (c *cli) moment(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return c.now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, c.zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usage("--%s %q is not a time; write 2026-11-25T18:30:00Z, 2026-11-25, or how long ago: 2h", flag, s)
}
