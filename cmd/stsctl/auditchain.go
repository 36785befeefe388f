package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/sts"
)

// findChains returns all records of the transactions that records belong to.
func findChains(files []string, found []*auditRecord, limit int) (all []*auditRecord, more bool, err error) {
	txns := map[string]bool{}
	for _, r := range found {
		if txn := r.txn(); txn != "" {
			txns[txn] = true
		}
	}
	if len(txns) == 0 {
		return nil, false, nil
	}
	var words [][]byte
	if len(txns) == 1 {
		for txn := range txns {
			words = [][]byte{[]byte(txn)}
		}
	}
	for _, name := range files {
		if err := eachRecord(name, words, func(r *auditRecord) bool {
			if txns[r.txn()] {
				all = append(all, r)
			}
			more = len(all) > limit
			return !more
		}); err != nil {
			return nil, false, err
		}
	}
	return all[:min(len(all), limit)], more, nil
}

// showChains writes the trees of exchanges, each below its transaction.
func (c *cli) showChains(records []*auditRecord) error {
	if len(records) == 0 {
		fmt.Fprintln(c.stderr, "stsctl: no record that belongs to a transaction fits")
		return nil
	}
	var b bytes.Buffer
	var txns []string
	by := map[string][]*auditRecord{}
	for _, r := range records {
		if _, seen := by[r.txn()]; !seen {
			txns = append(txns, r.txn())
		}
		by[r.txn()] = append(by[r.txn()], r)
	}
	for _, txn := range txns {
		fmt.Fprintf(&b, "txn %s\n", oneLine(txn))
		newTree(by[txn]).write(&b, c.zone)
	}
	_, err := c.stdout.Write(b.Bytes())
	return err
}

// auditTree has what came of each token, by its jti.
type auditTree struct {
	roots    []*auditRecord
	children map[string][]*auditRecord
}

// newTree links records: who presents a token that another record issued is below
// that.
func newTree(records []*auditRecord) *auditTree {
	t := &auditTree{children: map[string][]*auditRecord{}}
	issued := map[string]bool{}
	for _, r := range records {
		// In the order of the log, so a token comes before what comes of it, and a tree
		// has no circles, whoever made up the log.
		if r.Subject != nil && issued[r.Subject.JTI] && !r.Subject.Unverified {
			t.children[r.Subject.JTI] = append(t.children[r.Subject.JTI], r)
		} else {
			t.roots = append(t.roots, r)
		}
		if r.Issued != nil {
			issued[r.Issued.JTI] = true
		}
	}
	return t
}

func (t *auditTree) write(w io.Writer, zone *time.Location) {
	type entry struct {
		r      *auditRecord
		indent string
		last   bool
	}
	shown := map[*auditRecord]bool{}
	var stack []entry
	push := func(list []*auditRecord, indent string) {
		for i, r := range slices.Backward(list) {
			if !shown[r] {
				shown[r] = true
				stack = append(stack, entry{r, indent, i == len(list)-1})
			}
		}
	}
	push(t.roots, "")
	for len(stack) > 0 {
		e := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		branch, below := "├─ ", e.indent+"│  "
		if e.last {
			branch, below = "└─ ", e.indent+"   "
		}
		head, rest := chainLines(e.r, zone)
		fmt.Fprintf(w, "%s%s%s\n", e.indent, branch, head)
		for _, line := range rest {
			fmt.Fprintf(w, "%s   %s\n", below, line)
		}
		if e.r.Issued != nil {
			push(t.children[e.r.Issued.JTI], below)
		}
	}
}

// chainLines tells of a record in a tree: what happened, and what identifies it.
func chainLines(r *auditRecord, zone *time.Location) (head string, rest []string) {
	grant := string(r.Grant)
	if r.Grant == sts.TokenExchange {
		grant = "exchange"
	}
	who := r.Client
	if who == "" {
		who = "the workload itself"
	}
	head = fmt.Sprintf("%s %s by %s", r.Time.In(zone).Format(time.DateTime), grant, who)
	add := func(name, value string) {
		if value != "" {
			rest = append(rest, oneLine(fmt.Sprintf("%-8s %s", name, value)))
		}
	}
	if p := r.Subject; p != nil {
		add("of", strings.TrimSpace(fmt.Sprintf("%s, of %s, %s", p.Sub, p.Issuer, presentedID(p))))
	}
	if p := r.Actor; p != nil {
		add("actor", fmt.Sprintf("%s, of %s, %s", p.Sub, p.Issuer, presentedID(p)))
	}
	if t := r.Issued; t != nil {
		head += ": " + t.Sub + " to " + strings.Join(t.Audiences, ", ")
		add("scopes", strings.Join(t.Scopes, " "))
		add("act", strings.Join(t.Act, " < "))
		add("issued", "jti "+t.JTI+", until "+time.Unix(t.Exp, 0).In(zone).Format(time.DateTime))
		add("signed", "kid "+t.KID)
		add("rules", strings.Join(t.Rules, " ")+fmt.Sprintf(", revision %d", r.Revision))
	} else {
		head += ": refused, " + string(r.Error)
		add("because", r.Reason)
		add("revision", fmt.Sprint(r.Revision))
	}
	add("decision", fmt.Sprintf("%s, record %d", r.Decision, r.Seq))
	return oneLine(head), rest
}

func presentedID(p *sts.RecordParty) string {
	if p.JTI != "" {
		return "jti " + p.JTI
	}
	return p.Hash
}
