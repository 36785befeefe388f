package storage

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/workload-sts/sts/sts"
)

// collector takes logs over OTLP/HTTP, and is strict. It answers what it is told
// to, once each, and then that it has taken everything.
type collector struct {
	*httptest.Server

	mu      sync.Mutex
	answers []func(http.ResponseWriter)
	records []*logspb.LogRecord // that it has taken
	tokens  []string
	faults  []string
	posts   int
}

func newCollector(t testing.TB, withTLS bool, answers ...func(http.ResponseWriter)) *collector {
	t.Helper()
	c := &collector{answers: answers}
	c.Server = httptest.NewUnstartedServer(c)
	if withTLS {
		c.StartTLS()
	} else {
		c.Start()
	}
	t.Cleanup(c.Close)
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.posts++
	c.tokens = append(c.tokens, r.Header.Get("Authorization"))
	var in collogspb.ExportLogsServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &in)
	}
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/logs" || r.Header.Get("Content-Type") != "application/x-protobuf" || len(in.ProtoReflect().GetUnknown()) > 0 {
		c.faults = append(c.faults, fmt.Sprintf("%s %s %v: %v", r.Method, r.URL, r.Header, err))
	}
	if len(c.answers) > 0 {
		answer := c.answers[0]
		c.answers = c.answers[1:]
		answer(w)
		return
	}
	for _, rl := range in.ResourceLogs {
		if got := attributes(rl.Resource.GetAttributes()); got["service.name"] != "stsd" || got["service.version"] != "v1.2.3" || got["host.name"] == "" {
			c.faults = append(c.faults, fmt.Sprintf("resource %v", got))
		}
		for _, sl := range rl.ScopeLogs {
			c.records = append(c.records, sl.LogRecords...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func attributes(list []*commonpb.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range list {
		switch v := kv.Value.GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			out[kv.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			out[kv.Key] = fmt.Sprint(v.IntValue)
		}
	}
	return out
}

// bodies are the lines that it has taken.
func (c *collector) bodies() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, r := range c.records {
		out = append(out, r.GetBody().GetStringValue()+"\n")
	}
	return out
}

func answerWith(code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { w.WriteHeader(code) }
}

func openOTLPLog(t testing.TB, c *collector, tokenFile string) (*Audit, string) {
	t.Helper()
	o := OTLPOptions{Endpoint: c.URL + "/v1/logs", TokenFile: tokenFile, Version: "v1.2.3"}
	if c.TLS != nil {
		o.TLS = c.Client().Transport.(*http.Transport).TLSClientConfig
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a, _, err := OpenAudit(AuditOptions{File: path, Sinks: []AuditSink{NewOTLPSink("collector", o)}})
	must(t, err)
	t.Cleanup(func() { a.Close() })
	return a, path
}

// TestOTLPSink: a collector gets every line as it is in the file, with its number,
// event and outcome beside it, and a token that is read anew each time.
func TestOTLPSink(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", withTLS), func(t *testing.T) {
			c := newCollector(t, withTLS, answerWith(http.StatusServiceUnavailable), answerWith(http.StatusTooManyRequests))
			token := filepath.Join(t.TempDir(), "token")
			must(t, os.WriteFile(token, []byte("one\n"), 0o600))
			a, path := openOTLPLog(t, c, token)
			at := time.Date(2026, 11, 25, 12, 0, 0, 5, time.UTC)
			must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Time: at, Decision: "1", Outcome: "allow", Reason: "é\u2028"}))
			waitFor(t, func() bool { return len(c.bodies()) == 1 }) // after two refusals
			must(t, os.WriteFile(token, []byte("two\n"), 0o600))
			must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventRevoke, Time: at, Decision: "2", Outcome: "deny"}))
			waitFor(t, func() bool { return len(c.bodies()) == 2 })
			must(t, a.Close())
			log, err := os.ReadFile(path)
			must(t, err)
			_, want, _ := bytes.Cut(log, []byte("\n")) // the first line was written before there were sinks
			if got := strings.Join(c.bodies(), ""); got != string(want) {
				t.Errorf("%s\nis not\n%s", got, want)
			}
			if len(c.faults) > 0 || !slices.Equal(c.tokens, []string{"Bearer one", "Bearer one", "Bearer one", "Bearer two"}) {
				t.Errorf("%q, %q", c.faults, c.tokens)
			}
			for i, want := range []struct {
				severity logspb.SeverityNumber
				event    string
				attrs    map[string]string
			}{
				{logspb.SeverityNumber_SEVERITY_NUMBER_INFO, "sts.audit.token", map[string]string{"sts.audit.seq": "2", "sts.audit.event": "token", "sts.audit.outcome": "allow"}},
				{logspb.SeverityNumber_SEVERITY_NUMBER_WARN, "sts.audit.revoke", map[string]string{"sts.audit.seq": "3", "sts.audit.event": "revoke", "sts.audit.outcome": "deny"}},
			} {
				r := c.records[i]
				if r.SeverityNumber != want.severity || r.EventName != want.event || fmt.Sprint(attributes(r.Attributes)) != fmt.Sprint(want.attrs) || r.TimeUnixNano != uint64(at.UnixNano()) || r.ObservedTimeUnixNano == 0 {
					t.Errorf("record %d: %v", i, r)
				}
			}
			if s := a.sinks[0]; s.failures.Load() != 2 || s.sent.Load() != 2 || s.dropped.count() != 0 {
				t.Errorf("failures %d, sent %d, dropped %d", s.failures.Load(), s.sent.Load(), s.dropped.count())
			}
		})
	}
}

// TestOTLPSinkRefuses: what a collector will never take is not sent again, and
// counted; a redirect, which would take the token elsewhere, is not followed.
func TestOTLPSinkRefuses(t *testing.T) {
	partial := func(w http.ResponseWriter) {
		b, err := proto.Marshal(&collogspb.ExportLogsServiceResponse{PartialSuccess: &collogspb.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "too old"}})
		if err != nil {
			panic(err)
		}
		_, _ = w.Write(b)
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	redirect := func(w http.ResponseWriter) {
		w.Header().Set("Location", elsewhere.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
	for name, tc := range map[string]struct {
		answer  func(http.ResponseWriter)
		dropped int64
		posts   int // until the second record is there
	}{
		"bad request":     {answerWith(http.StatusBadRequest), 1, 2},
		"too large":       {answerWith(http.StatusRequestEntityTooLarge), 1, 2},
		"partial success": {partial, 1, 2},
		"redirect":        {redirect, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCollector(t, false, tc.answer)
			a, path := openOTLPLog(t, c, "")
			must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "first"}))
			waitFor(t, func() bool { return a.sinks[0].failures.Load() == 1 })
			must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "second"}))
			has := func(what string) bool { return strings.Contains(strings.Join(c.bodies(), ""), what) }
			waitFor(t, func() bool { return has(`"decision":"second"`) })
			if has(`"decision":"first"`) != (tc.dropped == 0) || a.sinks[0].dropped.count() != tc.dropped {
				t.Errorf("dropped %d, %q", a.sinks[0].dropped.count(), c.bodies())
			}
			if tc.dropped > 0 {
				// The log, and then the collector, say so.
				waitFor(t, func() bool { return has(`"event":"dropped"`) })
				must(t, a.Close())
				if r := verifyLog(t, AuditVerifier{}, path); r.Dropped != tc.dropped {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}

// roundTrip answers requests without a network.
type roundTrip func(*http.Request) *http.Response

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

// TestOTLPSinkRetryAfter: a collector that says when to come again is left alone for
// so long, within bounds.
func TestOTLPSinkRetryAfter(t *testing.T) {
	dir := t.TempDir()
	for i, row := range []struct {
		name  string
		after func() string
		want  time.Duration
	}{
		{"not said", func() string { return "" }, time.Second},
		{"seconds", func() string { return "90" }, 90 * time.Second},
		{"a date", func() string { return time.Now().Add(45 * time.Second).UTC().Format(http.TimeFormat) }, 45 * time.Second},
		{"a date that has passed", func() string { return time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat) }, time.Second},
		{"too long", func() string { return "86400" }, sinkAsked},
		{"garbage", func() string { return "-5" }, time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var posts []time.Time
				sink := &otlpSink{o: OTLPOptions{Endpoint: "http://127.0.0.1/v1/logs"}, client: &http.Client{Transport: roundTrip(func(r *http.Request) *http.Response {
					posts = append(posts, time.Now())
					res := &http.Response{Status: "429 Too Many Requests", StatusCode: http.StatusTooManyRequests, Header: http.Header{}, Body: http.NoBody, Request: r}
					res.Header.Set("Retry-After", row.after())
					if len(posts) > 1 {
						res.Status, res.StatusCode = "200 OK", http.StatusOK
					}
					return res
				})}}
				a, _, err := OpenAudit(AuditOptions{File: filepath.Join(dir, fmt.Sprintf("%d.jsonl", i)), Sinks: []AuditSink{{Name: "s", Send: sink.send}}})
				must(t, err)
				defer a.Close()
				must(t, a.Record(t.Context(), &sts.Record{Event: sts.EventToken, Decision: "1"}))
				time.Sleep(time.Hour)
				synctest.Wait()
				if len(posts) != 2 || posts[1].Sub(posts[0]).Round(time.Second) != row.want {
					t.Errorf("posts at %v, want %s between them", posts, row.want)
				}
			})
		})
	}
}
