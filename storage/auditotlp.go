package storage

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"
)

// maxOTLPAnswer is how much of an answer of a collector is read.
const maxOTLPAnswer = 64 << 10

// OTLPOptions say where a collector of OpenTelemetry logs is.
type OTLPOptions struct {
	Endpoint  string // URL that logs are posted to
	TokenFile string // of a bearer token, read each time; empty: none is sent
	TLS       *tls.Config
	Version   string // of this program
}

// otlpSink posts records to a collector [OTLP 1.x, OTLP/HTTP].
type otlpSink struct {
	o        OTLPOptions
	client   *http.Client
	resource *resourcepb.Resource
}

// NewOTLPSink returns a sink that posts lines as the bodies of log records, in
// binary protobuf.
func NewOTLPSink(name string, o OTLPOptions) AuditSink {
	attributes := []*commonpb.KeyValue{otlpString("service.name", "stsd"), otlpString("service.version", o.Version)}
	if host, err := os.Hostname(); err == nil {
		attributes = append(attributes, otlpString("host.name", host))
	}
	s := &otlpSink{
		o: o, resource: &resourcepb.Resource{Attributes: attributes},
		client: &http.Client{
			Transport: &http.Transport{TLSClientConfig: o.TLS, Proxy: http.ProxyFromEnvironment, MaxIdleConns: 2, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true},
			// The token is for this host.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	return AuditSink{Name: name, Send: s.send, Close: func() error { s.client.CloseIdleConnections(); return nil }}
}

func (s *otlpSink) send(ctx context.Context, lines [][]byte) error {
	records := make([]*logspb.LogRecord, 0, len(lines))
	for _, line := range lines {
		records = append(records, otlpRecord(line, time.Now()))
	}
	payload, err := proto.Marshal(&collogspb.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{
		Resource:  s.resource,
		ScopeLogs: []*logspb.ScopeLogs{{Scope: &commonpb.InstrumentationScope{Name: "sts.audit"}, LogRecords: records}},
	}}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.o.Endpoint, bytes.NewReader(payload))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	if s.o.TokenFile != "" {
		token, err := os.ReadFile(s.o.TokenFile)
		if err != nil {
			return fmt.Errorf("the token for the collector: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	return s.post(req)
}

func (s *otlpSink) post(req *http.Request) error {
	res, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxOTLPAnswer))
	switch {
	case err != nil:
		return err
	case res.StatusCode == http.StatusBadRequest || res.StatusCode == http.StatusRequestEntityTooLarge:
		// These would be refused again.
		return &refusedLines{all: true, why: fmt.Sprintf("the collector answers %s", res.Status)}
	case res.StatusCode < 200 || res.StatusCode > 299:
		return &busySink{
			after: retryAfter(res.Header.Get("Retry-After"), time.Now()),
			why:   fmt.Sprintf("the collector answers %s", res.Status),
		}
	}
	var r collogspb.ExportLogsServiceResponse
	if proto.Unmarshal(answer, &r) == nil && r.GetPartialSuccess().GetRejectedLogRecords() > 0 {
		return &refusedLines{count: r.GetPartialSuccess().GetRejectedLogRecords(), why: "the collector refuses some: " + r.GetPartialSuccess().GetErrorMessage()}
	}
	return nil
}

// refusedLines is the error of a sink that has taken what it takes, and will not
// take the rest.
type refusedLines struct {
	all   bool
	count int64
	why   string
}

func (e *refusedLines) Error() string { return e.why }

// busySink is the error of a sink that says when to come again.
type busySink struct {
	after time.Duration // 0: it does not say
	why   string
}

func (e *busySink) Error() string { return e.why }

// retryAfter reads how long a collector wants to be left alone: seconds, or a date
// [OTLP/HTTP throttling, RFC 9110 §10.2.3]. What is longer than a sink can ask for
// is that.
func retryAfter(value string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), sinkAsked)
}

// otlpRecord is a line as a log record, as it is in the file and nothing changed.
func otlpRecord(line []byte, now time.Time) *logspb.LogRecord {
	var told struct {
		Time    time.Time `json:"time"`
		Outcome string    `json:"outcome"`
	}
	_ = json.Unmarshal(line, &told) // what cannot be read is sent without
	l, _ := parseChainLine(line)    // and this
	r := &logspb.LogRecord{
		ObservedTimeUnixNano: uint64(now.UnixNano()), SeverityNumber: logspb.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO",
		EventName: "sts.audit." + string(l.event),
		Body:      &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: string(bytes.TrimSuffix(line, []byte("\n")))}},
		Attributes: []*commonpb.KeyValue{
			{Key: "sts.audit.seq", Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: l.seq}}},
			otlpString("sts.audit.event", string(l.event)),
		},
	}
	if !told.Time.IsZero() {
		r.TimeUnixNano = uint64(told.Time.UnixNano())
	}
	if told.Outcome != "" {
		r.Attributes = append(r.Attributes, otlpString("sts.audit.outcome", told.Outcome))
	}
	if told.Outcome == "deny" {
		r.SeverityNumber, r.SeverityText = logspb.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	}
	return r
}

func otlpString(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}
