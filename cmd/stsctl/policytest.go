package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/workload-sts/sts/sts/policytest"
)

// policyTest are the flags of `policy test`.
type policyTest struct {
	run         string
	junit       string
	coverage    bool
	minCoverage float64
	update      bool
	verbose     bool
	issuer      *string
	out         *output
}

func newPolicyTest(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test [FILE|DIR]...",
		Short: "Run the test cases beside the rules",
		Long: `Decide the requests of test cases by the resources beside them, without a
server, and hold what comes of them against what the cases expect. Cases are in
files whose names end in _test.yaml; all other *.yaml, *.yml and *.json are
resources. The default is the current directory.

The same code decides as in the server, from the claims of verified tokens on.
Signatures, keys and the files that resources name are not looked at.

A case fails if anything that it says is otherwise; then the explanation of the
decision is printed. The exit code is 1 if a case fails or too little is
covered, and 4 if a file cannot be read.

--coverage lists the rules that no case is granted by, and the predicates that
no case shows to matter: for which there is no request that fails by it alone.`,
		Example: "  stsctl policy test policy.d/\n  stsctl policy test policy.d/ --coverage --min-coverage 80 --junit report.xml\n  stsctl policy test policy.d/ --run 'deploy' --update",
		Args:    cobra.ArbitraryArgs,
	}
	t := &policyTest{issuer: offlineIssuer(cmd)}
	cmd.Flags().StringVar(&t.run, "run", "", "run only the cases whose names match `REGEX`")
	cmd.Flags().StringVar(&t.junit, "junit", "", "write the results as JUnit XML to `FILE`")
	cmd.Flags().BoolVar(&t.coverage, "coverage", false, "say which rules and predicates no case shows")
	cmd.Flags().Float64Var(&t.minCoverage, "min-coverage", 0, "fail if less than `PERCENT` of rules and predicates are shown")
	cmd.Flags().BoolVar(&t.update, "update", false, "write what comes of the cases into them as what they expect")
	cmd.Flags().BoolVarP(&t.verbose, "verbose", "v", false, "list every case, and explain it")
	t.out = outputFlag(cmd, "text", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			args = []string{"."}
		}
		return c.policyTest(cmd.Context(), args, t)
	}
	return cmd
}

func (c *cli) policyTest(ctx context.Context, paths []string, t *policyTest) error {
	if !(t.minCoverage >= 0 && t.minCoverage <= 100) {
		return usage("--min-coverage is between 0 and 100")
	}
	filter, err := regexp.Compile(t.run)
	if err != nil {
		return usage("--run is not a regular expression: %v", err)
	}
	o, err := c.loadOffline(paths, *t.issuer, true)
	if err != nil {
		return err
	}
	total := 0
	for _, f := range o.tests {
		total += len(f.Cases)
		f.Cases = slices.DeleteFunc(f.Cases, func(k *policytest.Case) bool { return !filter.MatchString(k.Name) })
	}
	results := policytest.Run(ctx, o.Offline, o.tests)
	switch {
	case len(results) == 0 && total > 0:
		return badInput("none of the names of %s matches %s", count(total, "case"), oneLine(t.run))
	case len(results) == 0:
		return badInput("no test cases; write them into files whose names end in _test.yaml, see docs/policy-testing.md")
	}
	if t.update {
		return c.updateCases(o.tests, results)
	}
	if t.junit != "" {
		if err := writeFile(t.junit, func(f *os.File) error { return policytest.WriteJUnit(f, results) }); err != nil {
			return badInput("%v", err)
		}
	}
	report := newTestReport(results)
	if t.coverage || t.minCoverage > 0 {
		cover := policytest.Cover(ctx, o.Offline, results)
		report.cover(cover)
	}
	if written, err := t.out.write(c.stdout, report); err != nil {
		return err
	} else if !written {
		c.printTests(results, report, t.verbose)
	}
	switch {
	case report.Failed > 0:
		return &failure{exitRefused, count(report.Failed, "case") + " failed"}
	case report.Coverage != nil && report.Coverage.Percent < t.minCoverage:
		return &failure{exitRefused, fmt.Sprintf("%.1f %% of rules and predicates are shown by cases, %.1f %% are required", report.Coverage.Percent, t.minCoverage)}
	}
	return nil
}

// updateCases writes what came of cases into their files.
func (c *cli) updateCases(files []*policytest.File, results []policytest.Result) error {
	total := 0
	for _, f := range files {
		data, n, err := f.Update(results)
		if err != nil {
			return badInput("%v", err)
		}
		if n == 0 {
			continue
		}
		if err := writeFile(f.Name, func(file *os.File) error { _, err := file.Write(data); return err }); err != nil {
			return badInput("%v", err)
		}
		fmt.Fprintf(c.stdout, "updated %s in %s\n", count(n, "case"), f.Name)
		total += n
	}
	if total == 0 {
		fmt.Fprintln(c.stdout, "every case is as it expects; nothing was changed")
	}
	return nil
}

// writeFile replaces a file whole, or leaves it as it was.
func writeFile(name string, write func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".stsctl-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // what is left of it if something fails
	err = write(f)
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// testReport is the result for machines.
type testReport struct {
	Passed   int             `json:"passed"`
	Failed   int             `json:"failed"`
	Cases    []testCase      `json:"cases"`
	Coverage *coverageReport `json:"coverage,omitempty"`
}

type testCase struct {
	Name        string            `json:"name"`
	Place       string            `json:"place"`
	Passed      bool              `json:"passed"`
	Millis      float64           `json:"milliseconds"`
	Diffs       []policytest.Diff `json:"differences,omitempty"`
	Explanation string            `json:"explanation,omitempty"`
}

type coverageReport struct {
	Percent   float64             `json:"percent"`
	Ungranted []string            `json:"rules_not_granted"`
	Idle      []string            `json:"rules_not_denying"`
	Missing   map[string][]string `json:"predicates_not_shown"`
}

func newTestReport(results []policytest.Result) *testReport {
	out := &testReport{}
	for _, r := range results {
		k := testCase{Name: r.Case.Name, Place: r.Case.Place(), Passed: len(r.Diffs) == 0, Millis: float64(r.Elapsed.Microseconds()) / 1000, Diffs: r.Diffs}
		if k.Passed {
			out.Passed++
		} else {
			out.Failed++
			k.Explanation = r.Outcome.Text()
		}
		out.Cases = append(out.Cases, k)
	}
	return out
}

func (t *testReport) cover(c policytest.Coverage) {
	t.Coverage = &coverageReport{Percent: c.Percent(), Ungranted: []string{}, Idle: []string{}, Missing: map[string][]string{}}
	for _, r := range c.Rules {
		switch {
		case !r.Shown && r.Denies:
			t.Coverage.Idle = append(t.Coverage.Idle, r.Rule)
		case !r.Shown:
			t.Coverage.Ungranted = append(t.Coverage.Ungranted, r.Rule)
		}
		if len(r.Missing) > 0 {
			t.Coverage.Missing[r.Rule] = r.Missing
		}
	}
}

func (c *cli) printTests(results []policytest.Result, report *testReport, verbose bool) {
	for _, r := range results {
		switch failed := len(r.Diffs) > 0; {
		case failed:
			fmt.Fprintf(c.stdout, "FAIL %s: %s\n%s", r.Case.Place(), oneLine(r.Case.Name), indented(r.Text()))
		case verbose:
			fmt.Fprintf(c.stdout, "ok   %s: %s\n%s", r.Case.Place(), oneLine(r.Case.Name), indented(r.Outcome.Text()))
		}
	}
	if cover := report.Coverage; cover != nil {
		for _, rule := range cover.Ungranted {
			fmt.Fprintf(c.stdout, "no case is granted by rule %s\n", rule)
		}
		for _, rule := range cover.Idle {
			fmt.Fprintf(c.stdout, "no case is denied by rule %s\n", rule)
		}
		for _, k := range sortedKeys(cover.Missing) {
			for _, p := range cover.Missing[k] {
				fmt.Fprintf(c.stdout, "no case fails by %s of rule %s alone\n", oneLine(p), k)
			}
		}
		fmt.Fprintf(c.stdout, "coverage: %.1f %% of rules and predicates\n", cover.Percent)
	}
	fmt.Fprintf(c.stdout, "%d passed, %d failed\n", report.Passed, report.Failed)
}

// indented moves a text to the right, and makes its lines safe to print.
func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("     " + oneLine(strings.TrimSuffix(line, "\n")) + "\n")
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
