package policytest

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Time     string      `xml:"time,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name      string        `xml:"name,attr"`
	ClassName string        `xml:"classname,attr"`
	File      string        `xml:"file,attr"`
	Line      int           `xml:"line,attr"`
	Time      string        `xml:"time,attr"`
	Failure   *junitFailure `xml:"failure"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes results as the systems for continuous integration read them.
func WriteJUnit(w io.Writer, results []Result) error {
	all := junitSuites{Tests: len(results)}
	var total time.Duration
	for _, r := range results {
		if n := len(all.Suites); n == 0 || all.Suites[n-1].Name != r.Case.file.Name {
			all.Suites = append(all.Suites, junitSuite{Name: r.Case.file.Name})
		}
		suite := &all.Suites[len(all.Suites)-1]
		c := junitCase{Name: r.Case.Name, ClassName: r.Case.file.Name, File: r.Case.file.Name, Line: r.Case.Line, Time: seconds(r.Elapsed)}
		if len(r.Diffs) > 0 {
			c.Failure = &junitFailure{Message: r.Diffs[0].String(), Text: r.Text()}
			suite.Failures++
			all.Failures++
		}
		suite.Tests++
		suite.Cases = append(suite.Cases, c)
		total += r.Elapsed
	}
	for i := range all.Suites {
		var sum time.Duration
		for _, r := range results {
			if r.Case.file.Name == all.Suites[i].Name {
				sum += r.Elapsed
			}
		}
		all.Suites[i].Time = seconds(sum)
	}
	all.Time = seconds(total)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }

func (d Diff) String() string { return fmt.Sprintf("%s: expected %s, got %s", d.Field, d.Want, d.Got) }

// Text says what is not as expected, and why it is as it is.
func (r Result) Text() string {
	var b strings.Builder
	for _, d := range r.Diffs {
		fmt.Fprintf(&b, "%s\n  expected: %s\n  got:      %s\n", d.Field, d.Want, d.Got)
	}
	b.WriteString(r.Outcome.Text())
	return b.String()
}
