package main

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"slices"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/server"
)

// errorsPage lists every error code, and the numbers that stand for some of them.
func errorsPage(b *bytes.Buffer) error {
	fmt.Fprintf(b, "%s# Errors\n\nThe token endpoint answers `error` and `error_description`. gRPC answers a status whose details carry a google.rpc.ErrorInfo with the code as its reason. A description ends with the id of the decision, by which the operator finds the record in the audit log; the caller's request id is in `X-Request-Id`.\n\n| code | HTTP | gRPC | |\n|---|---|---|---|\n", generated)
	for _, c := range sts.Codes {
		if c.Meaning() == "" {
			return fmt.Errorf("code %s has no meaning", c)
		}
		grpc, status := server.WireCodes(c)
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", c, httpStatus(status), grpcCode(grpc), c.Meaning())
	}
	b.WriteString("\nWhere another number says more about how a request was made, it stands for that of the code:\n\n| code | HTTP | gRPC | |\n|---|---|---|---|\n")
	for _, e := range server.Exceptions() {
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", e.Code, httpStatus(e.HTTP), grpcCode(e.GRPC), e.Meaning)
	}
	fmt.Fprintf(b, "\nWhat is not even a request is answered without a code: over HTTP by %s where it is malformed and by %s where its headers are larger than 16 KiB; over gRPC by %s where a message is larger than 256 KiB, by %s where a method is unknown or a message compressed, and by %s where a message does not arrive in time.\n",
		httpStatus(http.StatusBadRequest), httpStatus(http.StatusRequestHeaderFieldsTooLarge),
		grpcCode(codes.ResourceExhausted), grpcCode(codes.Unimplemented), grpcCode(codes.Canceled))
	return nil
}

func httpStatus(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", n, http.StatusText(n))
}

// grpcCode is the name of a code in every language.
func grpcCode(c codes.Code) string {
	if c == codes.OK {
		return ""
	}
	return code.Code(c).String()
}

var desc = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: "([^"]*)".*, constLabels: \{.*\}, variableLabels: \{(.*)\}.*\}$`)

// metricsPage lists every metric. A Desc tells its name only by its text.
func metricsPage(b *bytes.Buffer) error {
	fmt.Fprintf(b, "%s# Metrics\n\nPrometheus metrics at `/metrics`, besides those of the Go runtime and the process. No label has a value from outside.\n\n| metric | labels | |\n|---|---|---|\n", generated)
	var rows []string
	for _, d := range slices.Concat(server.Metrics(), keys.Metrics(), storage.AuditMetrics(), storage.ReplayMetrics()) {
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
