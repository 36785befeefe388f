package main

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"slices"

	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/server"
)

// errorsPage lists every error code.
func errorsPage(b *bytes.Buffer) error {
	fmt.Fprintf(b, "%s# Errors\n\nThe token endpoint answers `error` and `error_description`. gRPC answers a status whose details carry a google.rpc.ErrorInfo with the code as its reason. A description ends with the id of the decision, by which the operator finds the record in the audit log; the caller's request id is in `X-Request-Id`.\n\n| code | HTTP | gRPC | |\n|---|---|---|---|\n", generated)
	for _, c := range sts.Codes {
		if c.Meaning() == "" {
			return fmt.Errorf("code %s has no meaning", c)
		}
		grpc, status := server.WireCodes(c)
		fmt.Fprintf(b, "| `%s` | %d %s | %s | %s |\n", c, status, http.StatusText(status), grpc, c.Meaning())
	}
	return nil
}

var desc = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: "([^"]*)".*, constLabels: \{.*\}, variableLabels: \{(.*)\}.*\}$`)

// metricsPage lists every metric. A Desc tells its name only by its text.
func metricsPage(b *bytes.Buffer) error {
	fmt.Fprintf(b, "%s# Metrics\n\nPrometheus metrics at `/metrics`, besides those of the Go runtime and the process. No label has a value from outside.\n\n| metric | labels | |\n|---|---|---|\n", generated)
	var rows []string
	for _, d := range slices.Concat(server.Metrics(), keys.Metrics()) {
		m := desc.FindStringSubmatch(d.String())
		if m == nil {
			return fmt.Errorf("cannot read %s", d)
		}
		labels := ""
		if m[3] != "" {
			labels = "`" + m[3] + "`"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |\n", m[1], labels, m[2]))
	}
	slices.Sort(rows)
	for _, r := range rows {
		b.WriteString(r)
	}
	return nil
}
