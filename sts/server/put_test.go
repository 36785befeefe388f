package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// rest makes a request of an administrator with headers.
func (f *fixture) rest(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	req := f.request(t, method, path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+f.admin)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	return f.do(t, req)
}

// TestConditional replaces and deletes what is still as it was read, and nothing
// else.
func TestConditional(t *testing.T) {
	f := newFixture(t)
	const path = "/v1/resources/Audience/new"
	body := func(description string) string {
		return `{"audience":{"name":"new","description":"` + description + `"}}`
	}
	made := f.rest(t, "PUT", path, body("one"), "If-None-Match", "*")
	etag := made.header.Get("ETag")
	if made.http != 201 || len(etag) < 10 {
		t.Fatalf("%d %s %v", made.http, made.raw, made.header)
	}
	if got := f.rest(t, "PUT", path, body("two"), "If-None-Match", "*"); got.http != 412 || got.code != sts.PreconditionFailed {
		t.Errorf("made twice: %d %s", got.http, got.raw)
	}
	if got := f.rest(t, "GET", path, ""); got.header.Get("ETag") != etag || !strings.Contains(got.raw, strings.Trim(etag, `"`)) {
		t.Errorf("read: %v %s", got.header, got.raw)
	}
	changed := f.rest(t, "PUT", path, body("two"), "If-Match", etag)
	if changed.http != 200 || changed.header.Get("ETag") == etag {
		t.Fatalf("%d %s", changed.http, changed.raw)
	}
	for _, method := range []string{"PUT", "DELETE"} {
		content := ""
		if method == "PUT" {
			content = body("three")
		}
		got := f.rest(t, method, path, content, "If-Match", etag)
		if got.http != 412 || got.code != sts.PreconditionFailed || !strings.Contains(got.message, strings.Trim(changed.header.Get("ETag"), `"`)) {
			t.Errorf("%s of what was changed: %d %s", method, got.http, got.raw)
		}
		for _, headers := range [][]string{
			{"If-Match", "x"}, {"If-Match", `W/"x"`}, {"If-Match", `"a", "b"`}, {"If-Match", `"a"`, "If-Match", `"b"`}, {"If-Match", ""}, {"If-None-Match", `"x"`}, {"If-Match", "*", "If-None-Match", "*"},
		} {
			if got := f.rest(t, method, path, content, headers...); got.http != 400 {
				t.Errorf("%s with %v: %d %s", method, headers, got.http, got.raw)
			}
		}
	}
	if got := f.rest(t, "PUT", "/v1/resources/Audience/missing", `{"audience":{"name":"missing"}}`, "If-Match", "*"); got.http != 412 {
		t.Errorf("* of what is missing: %d %s", got.http, got.raw)
	}
	if got := f.rest(t, "PUT", "/v1/resources/Audience/other", body("x")); got.http != 400 {
		t.Errorf("another name: %d %s", got.http, got.raw)
	}
	if got := f.rest(t, "GET", path, "", "If-Match", etag); got.http != 400 {
		t.Errorf("a condition of a read: %d %s", got.http, got.raw)
	}
	admin := stsv1.NewAdminServiceClient(f.conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+f.admin)
	for name, m := range map[string]*stsv1.ApplyRequest{
		"changed": {Match: []*stsv1.ResourceMatch{{Kind: "Audience", Name: "new", Etag: strings.Trim(etag, `"`)}}},
		"exists":  {Match: []*stsv1.ResourceMatch{{Kind: "Audience", Name: "new"}}},
		"gone":    {Match: []*stsv1.ResourceMatch{{Kind: "Audience", Name: "never", Etag: "*"}}},
	} {
		m.Delete = []*stsv1.ResourceRef{{Kind: "Audience", Name: "new"}}
		if _, err := admin.Apply(ctx, m); answerOf(err).code != sts.PreconditionFailed || answerOf(err).grpc != codes.Aborted {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := f.rest(t, "DELETE", path, "", "If-Match", changed.header.Get("ETag")); got.http != 200 {
		t.Errorf("delete: %d %s", got.http, got.raw)
	}
}

// TestConditionalRace lets writers that have read the same replace it: one wins.
func TestConditionalRace(t *testing.T) {
	f := newFixture(t)
	const path = "/v1/resources/Audience/api"
	read := f.rest(t, "GET", path, "")
	var got struct {
		Resource struct{ Audience map[string]any }
	}
	if err := json.Unmarshal([]byte(read.raw), &got); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	won := map[int]int{}
	var writing sync.WaitGroup
	for i := range 8 {
		mine := map[string]any{}
		for k, v := range got.Resource.Audience {
			mine[k] = v
		}
		mine["description"] = string(rune('a' + i))
		body, err := json.Marshal(map[string]any{"audience": mine})
		if err != nil {
			t.Fatal(err)
		}
		writing.Go(func() {
			n := f.rest(t, "PUT", path, string(body), "If-Match", read.header.Get("ETag")).http
			mu.Lock()
			defer mu.Unlock()
			won[n]++
		})
	}
	writing.Wait()
	if won[http.StatusOK] != 1 || won[http.StatusPreconditionFailed] != 7 {
		t.Errorf("%v", won)
	}
}

// TestListOfOneRevision holds that a list whose resources change says so.
func TestListOfOneRevision(t *testing.T) {
	f := newFixture(t)
	first := f.rest(t, "GET", "/v1/resources?page_size=2", "")
	var page struct {
		Etags []string
		Next  string `json:"next_page_token"`
	}
	if err := json.Unmarshal([]byte(first.raw), &page); err != nil || page.Next == "" || len(page.Etags) != 2 || page.Etags[0] == page.Etags[1] {
		t.Fatalf("%v %s", err, first.raw)
	}
	if got := f.rest(t, "GET", "/v1/resources?page_size=2&page_token="+page.Next, ""); got.http != 200 {
		t.Errorf("%d %s", got.http, got.raw)
	}
	if got := f.rest(t, "PUT", "/v1/resources/Audience/new", `{"audience":{"name":"new"}}`); got.http != 201 {
		t.Fatal(got.raw)
	}
	if got := f.rest(t, "GET", "/v1/resources?page_size=2&page_token="+page.Next, ""); got.http != 409 || got.code != sts.Conflict {
		t.Errorf("after a change: %d %s", got.http, got.raw)
	}
	if got := f.rest(t, "GET", "/v1/issuers:status?page_size=1", ""); !strings.Contains(got.raw, `"next_page_token":"new"`) {
		t.Errorf("%s", got.raw)
	}
	if got := f.rest(t, "GET", "/v1/issuers:status?page_size=1&page_token=new", ""); !strings.Contains(got.raw, `"used"`) || strings.Contains(got.raw, "next_page_token") {
		t.Errorf("%s", got.raw)
	}
}
