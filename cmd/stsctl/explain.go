package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/server"
)

func newExplain(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain DECISION",
		Short: "Say why a decision was taken",
		Long: `Say why a token was granted or refused, by the id of the decision, which is in
every refusal and in the audit log: for each rule for the requester, the nearest
first, which predicates hold and which do not, what was presented and what is
expected, and what would have been granted. It is by the revision that decided;
if another is in force now, the last line says what that makes of the request.

The node that took the decision remembers it for a while. From another time or
node, read it from its audit log with --audit, together with the resources of
--dir: nothing is asked of a server then.`,
		Example: "  stsctl explain 5v1q1y6c9kz3m0h2\n  stsctl explain 5v1q1y6c9kz3m0h2 --audit /var/lib/sts/audit.jsonl --dir policy.d/",
		Args:    oneDecision,
	}
	audits := cmd.Flags().StringArray("audit", nil, "audit log `FILE` to find the decision in; may repeat")
	dirs := cmd.Flags().StringArray("dir", nil, "`DIR` or file with resources to decide by; may repeat")
	issuer := offlineIssuer(cmd)
	out := outputFlag(cmd, "text", "json", "yaml")
	c.conn.admin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var got *stsv1.ExplainDecisionResponse
		var err error
		switch {
		case len(*audits) == 0 && len(*dirs) > 0:
			return usage("--dir goes with --audit, which says what was decided")
		case len(*audits) > 0 && len(*dirs) == 0:
			return usage("--audit needs --dir, the resources to decide by; `stsctl get all -o yaml` writes those in force")
		case len(*audits) > 0:
			got, err = c.explainRecorded(cmd.Context(), args[0], *audits, *dirs, *issuer)
		default:
			got, err = c.explainRemembered(cmd.Context(), args[0])
		}
		if err != nil {
			return err
		}
		return c.showExplained(got, out)
	}
	return cmd
}

func oneDecision(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage("explain needs the id of one decision, as a refusal shows it")
	}
	return nil
}

func (c *cli) explainRemembered(ctx context.Context, id string) (*stsv1.ExplainDecisionResponse, error) {
	if err := c.conn.load(); err != nil {
		return nil, err
	}
	var got *stsv1.ExplainDecisionResponse
	err := c.adminCall(ctx, func(ctx context.Context, admin stsv1.AdminServiceClient) (err error) {
		got, err = admin.ExplainDecision(ctx, &stsv1.ExplainDecisionRequest{Id: id})
		return err
	})
	return got, err
}

// explainRecorded explains a decision of an audit log by resources in files.
func (c *cli) explainRecorded(ctx context.Context, id string, audits, dirs []string, issuer string) (*stsv1.ExplainDecisionResponse, error) {
	o, err := c.loadOffline(dirs, issuer, false)
	if err != nil {
		return nil, err
	}
	var found *sts.Record
	for _, name := range audits {
		err := c.records(name, func(r *sts.Record) bool {
			if r.Decision == id && r.Event == sts.EventToken {
				found = r
			}
			return found == nil
		})
		if err != nil {
			return nil, err
		}
		if found != nil {
			return server.ExplainedToProto(sts.Explained{Record: found, Then: o.Retry(ctx, found)}), nil
		}
	}
	return nil, badInput("no decision %s in %s", id, count(len(audits), "audit log"))
}

// records reads an audit log until visit returns false. A line that cannot be read
// is an error with its number: whoever asks about an audit log wants to know. One
// that does not end yet is being written.
func (c *cli) records(name string, visit func(*sts.Record) bool) error {
	in := c.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return badInput("%v", err)
		}
		defer f.Close()
		in = f
	}
	lines := bufio.NewReaderSize(in, 64<<10)
	for n := 1; ; n++ {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return badInput("reading %s, line %d: %v", name, n, err)
		}
		r, err := sts.ReadRecord(line)
		if err != nil && !bytes.HasSuffix(line, []byte("\n")) {
			return nil
		}
		if err != nil {
			return badInput("%s:%d: %v", name, n, err)
		}
		if !visit(r) {
			return nil
		}
	}
}

// readLine reads one line that is no longer than a record.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > sts.MaxRecordSize+64<<10:
			return nil, errors.New("the line is longer than a record can be")
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, nil
		}
		return line, err
	}
}

func (c *cli) showExplained(e *stsv1.ExplainDecisionResponse, out *output) error {
	if written, err := writeProto(c.stdout, out, e); written {
		return err
	}
	outcome := "allowed"
	if e.GetCode() != "" {
		outcome = "denied with " + oneLine(e.GetCode())
	}
	fmt.Fprintf(c.stdout, "decision %s of %s by revision %d: %s\n", oneLine(e.GetId()), e.GetTime().AsTime().In(c.zone).Format(time.RFC3339), e.GetRevision(), outcome)
	if e.GetReason() != "" {
		fmt.Fprintf(c.stdout, "  %s\n", oneLine(e.GetReason()))
	}
	if e.GetUnknown() != "" {
		for _, r := range e.GetReasons() {
			fmt.Fprintf(c.stdout, "  %s: presented %s, expected %s\n", oneLine(r.GetPredicate()), oneLine(r.GetPresented()), oneLine(r.GetExpected()))
			if r.GetHint() != "" {
				fmt.Fprintf(c.stdout, "    hint: %s\n", oneLine(r.GetHint()))
			}
		}
		_, err := fmt.Fprintf(c.stdout, "what comes of the request now cannot be told: %s\n", oneLine(e.GetUnknown()))
		return err
	}
	x := e.GetExplanation()
	if r := x.GetRevision(); r != e.GetRevision() && r != 0 {
		fmt.Fprintf(c.stdout, "revision %d is not kept any more; the same request by revision %d, which is in force:\n", e.GetRevision(), r)
	} else if r == 0 {
		fmt.Fprintf(c.stdout, "the same request by the resources given:\n")
	}
	if _, err := io.WriteString(c.stdout, indented(x.GetText())); err != nil || e.GetNow() == nil {
		return err
	}
	first, _, _ := strings.Cut(e.GetNow().GetText(), "\n")
	_, err := fmt.Fprintf(c.stdout, "by revision %d, which is in force now: %s\n", e.GetNow().GetRevision(), oneLine(first))
	return err
}

// writeProto writes a message for machines.
func writeProto(w io.Writer, out *output, m proto.Message) (bool, error) {
	if out.format == "text" {
		return false, nil
	}
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return true, err
	}
	return out.write(w, json.RawMessage(data))
}
