package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/workload-sts/sts/sts"
)

// maxAuditLine is longer than lines of the log are.
const maxAuditLine = sts.MaxRecordSize + 1<<10

// auditRecord is a line of the log.
type auditRecord struct {
	Seq int64 `json:"seq"`
	sts.Record
	line []byte // as it is in the file
}

// auditQuery is what is looked for; what is empty fits everything.
type auditQuery struct {
	jti, txn, subject, client, decision, event, outcome string
	since, until                                        time.Time

	limit int
	chain bool
	words [][]byte // one line that fits has all of them
}

func newAuditSearch(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "search FILE...",
		Short: "Find records of an audit log",
		Long: `Find the records that fit all of the flags. Nothing is verified here; that is
what ` + "`stsctl audit verify`" + ` does.

A token is found by its jti in the record that issued it and in those it was
presented in: REV is the revision of the resources that decided, KID the key
that signed, SUBJECT and ACT on whose behalf.

With --chain the whole tree of exchanges is shown that the records found belong
to: what was issued first, what was exchanged for it, and so on, refusals
included.

-o json writes the records as they are in the file, one a line.`,
		Example: "  stsctl audit search --decision 7ha5bb0r9swtz2kd audit*.jsonl\n  stsctl audit search --chain --jti Zk3nq0y7T0m8b1l2c3d4eQ audit*.jsonl\n  stsctl audit search --client web --outcome deny --since 1h -o json audit.jsonl | jq .reasons",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("audit search needs files; write `stsctl audit search --jti JTI audit*.jsonl`")
			}
			return nil
		},
	}
	var q auditQuery
	var since, until string
	f := cmd.Flags()
	f.StringVar(&q.jti, "jti", "", "token that was issued, presented, revoked or used at the admin interface, by its `JTI`")
	f.StringVar(&q.txn, "txn", "", "transaction: all tokens that come of one by exchange, by their `TXN`")
	f.StringVar(&q.subject, "subject", "", "`SUB` of a token that was issued or presented")
	f.StringVar(&q.client, "client", "", "`NAME` of a client that asked, or that acts in a token")
	f.StringVar(&q.decision, "decision", "", "`ID` of a decision, which answers have")
	f.StringVar(&q.event, "event", "", "`EVENT`: token, change, revoke, admin and others")
	f.StringVar(&q.outcome, "outcome", "", "`OUTCOME`: allow or deny")
	f.StringVar(&since, "since", "", "not before this `TIME`, or so long ago: 2h")
	f.StringVar(&until, "until", "", "before this `TIME`, or so long ago")
	f.IntVar(&q.limit, "limit", 10_000, "most records that are shown")
	f.BoolVar(&q.chain, "chain", false, "show the trees of exchanges that the records belong to")
	out := outputFlag(cmd, "table", "json")
	cmd.RunE = func(_ *cobra.Command, args []string) (err error) {
		if q.since, err = c.moment("since", since); err != nil {
			return err
		}
		if q.until, err = c.moment("until", until); err != nil {
			return err
		}
		return c.searchAudit(args, q, out)
	}
	return cmd
}

func (c *cli) searchAudit(files []string, q auditQuery, out *output) error {
	if q.outcome != "" && q.outcome != "allow" && q.outcome != "deny" {
		return usage("--outcome must be allow or deny")
	}
	found, more, err := find(files, q)
	if err != nil {
		return err
	}
	if q.chain {
		if found, more, err = findChains(files, found, q.limit); err != nil {
			return err
		}
	}
	if more {
		fmt.Fprintf(c.stderr, "stsctl: more than %d records fit; these are the first (--limit)\n", q.limit)
	}
	switch {
	case out.format == "json":
		for _, r := range found {
			if _, err := c.stdout.Write(r.line); err != nil {
				return err
			}
		}
		return nil
	case q.chain:
		return c.showChains(found)
	}
	return c.showRecords(found)
}

// find returns the first records that fit, and whether there are more.
func find(files []string, q auditQuery) (found []*auditRecord, more bool, err error) {
	for _, v := range []string{q.jti, q.txn, q.subject, q.client, q.decision} {
		// What JSON, or the log, would write in another way is found by its record only.
		if v != "" && !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
			q.words = append(q.words, []byte(v))
		}
	}
	for _, name := range files {
		if err := eachRecord(name, q.words, func(r *auditRecord) bool {
			if q.fits(r) {
				found = append(found, r)
			}
			more = len(found) > q.limit
			return !more
		}); err != nil {
			return nil, false, err
		}
	}
	return found[:min(len(found), q.limit)], more, nil
}

// eachRecord gives f the records whose lines have all words, until it returns
// false.
func eachRecord(name string, words [][]byte, f func(*auditRecord) bool) error {
	return readAuditFile(name, func(r io.Reader) error {
		lines := bufio.NewReaderSize(r, maxAuditLine)
		for n := 1; ; n++ {
			line, err := lines.ReadSlice('\n')
			if errors.Is(err, io.EOF) {
				return nil // half a line is what is being written
			}
			if err != nil {
				return badInput("%s:%d: %v; is it an audit log?", name, n, err)
			}
			if slices.ContainsFunc(words, func(w []byte) bool { return !bytes.Contains(line, w) }) {
				continue
			}
			record := &auditRecord{line: bytes.Clone(line)}
			if err := json.Unmarshal(line, record); err != nil {
				return badInput("%s:%d: it is not a record: %v; look with `stsctl audit verify`", name, n, err)
			}
			if !f(record) {
				return nil
			}
		}
	})
}

// parties are the tokens that a record says were presented.
func (r *auditRecord) parties() []*sts.RecordParty {
	return slices.DeleteFunc([]*sts.RecordParty{r.Subject, r.Actor, r.Assertion}, func(p *sts.RecordParty) bool { return p == nil })
}

// txn is the transaction that a record belongs to, empty if to none.
func (r *auditRecord) txn() string {
	if r.Issued != nil {
		return r.Issued.Txn
	}
	if r.Subject != nil && !r.Subject.Unverified {
		return r.Subject.Txn
	}
	return ""
}

func (q *auditQuery) fits(r *auditRecord) bool {
	any := func(want string, issued func(*sts.RecordToken) bool, presented func(*sts.RecordParty) bool) bool {
		return want == "" || r.Issued != nil && issued(r.Issued) || slices.ContainsFunc(r.parties(), presented)
	}
	revoked := func(kind sts.RevocationKind, value string) bool {
		return r.Revocation != nil && r.Revocation.Kind == kind && r.Revocation.Value == value
	}
	return (q.decision == "" || r.Decision == q.decision) &&
		(q.event == "" || string(r.Event) == q.event) &&
		(q.outcome == "" || r.Outcome == q.outcome) &&
		(q.since.IsZero() || !r.Time.Before(q.since)) && (q.until.IsZero() || r.Time.Before(q.until)) &&
		(r.used(q.jti) || revoked(sts.RevokeToken, "jti "+q.jti) || any(q.jti, func(t *sts.RecordToken) bool { return t.JTI == q.jti }, func(p *sts.RecordParty) bool { return p.JTI == q.jti })) &&
		(revoked(sts.RevokeTxn, q.txn) || any(q.txn, func(t *sts.RecordToken) bool { return t.Txn == q.txn }, func(p *sts.RecordParty) bool { return p.Txn == q.txn })) &&
		(revoked(sts.RevokeSubject, q.subject) || any(q.subject, func(t *sts.RecordToken) bool { return t.Sub == q.subject }, func(p *sts.RecordParty) bool { return p.Sub == q.subject })) &&
		(r.Client == q.client || r.Registration != nil && r.Registration.Client == q.client || revoked(sts.RevokeClient, q.client) || any(q.client,
			func(t *sts.RecordToken) bool { return t.ClientID == q.client || slices.Contains(t.Act, q.client) },
			func(p *sts.RecordParty) bool { return slices.Contains(p.Act, q.client) }))
}

// used tells whether the token of an administrator has a jti.
func (r *auditRecord) used(jti string) bool {
	return jti != "" && (r.Admin != nil && r.Admin.By.Token == jti || r.Change != nil && r.Change.By.Token == jti)
}

// what says what was done that is no decision about a token, and by which
// administrator.
func (r *auditRecord) what() string {
	var done []string
	by := ""
	switch {
	case r.Registration != nil:
		done = []string{r.Registration.Action, r.Registration.Client}
		if r.Registration.By != nil {
			by = r.Registration.By.Name
		}
	case r.Revocation != nil:
		done, by = []string{string(r.Revocation.Kind), r.Revocation.Value}, r.Revocation.By
	case r.Change != nil:
		done, by = []string{fmt.Sprintf("%s +%d ~%d -%d", r.Change.Line, r.Change.Created.Count, r.Change.Updated.Count, r.Change.Deleted.Count)}, r.Change.By.Name
	case r.Admin != nil:
		done, by = []string{r.Admin.Action, r.Admin.Target}, r.Admin.By.Name
	}
	if by != "" {
		done = append(done, "by "+by)
	}
	return strings.Join(slices.DeleteFunc(done, func(s string) bool { return s == "" }), " ")
}

func (c *cli) showRecords(found []*auditRecord) error {
	if len(found) == 0 {
		fmt.Fprintln(c.stderr, "stsctl: no record fits")
		return nil
	}
	rows := make([][]string, 0, len(found))
	for _, r := range found {
		what := []string{strconv.FormatInt(r.Seq, 10), r.Time.In(c.zone).Format(time.DateTime), string(r.Event), r.Outcome, r.Decision, r.Client}
		var sub, aud, presented, issued, act, kid string
		if r.Subject != nil {
			sub, presented, act = r.Subject.Sub, cmp.Or(r.Subject.JTI, r.Subject.Hash), strings.Join(r.Subject.Act, " < ")
		}
		if t := r.Issued; t != nil {
			sub, aud, issued, act, kid = t.Sub, strings.Join(t.Audiences, " "), t.JTI, strings.Join(t.Act, " < "), t.KID
		} else {
			issued = string(r.Error)
		}
		rev := ""
		if r.Revision > 0 {
			rev = strconv.FormatInt(r.Revision, 10)
		}
		rows = append(rows, append(what, sub, act, aud, presented, issued, r.what(), rev, kid))
	}
	return table(c.stdout, []string{"SEQ", "TIME", "EVENT", "OUTCOME", "DECISION", "CLIENT", "SUBJECT", "ACT", "AUDIENCE", "PRESENTED", "ISSUED OR ERROR", "WHAT", "REV", "KID"}, rows)
}
