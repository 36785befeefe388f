package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

func (f *fixture) adminRequest(t *testing.T, method, path, body string) answer {
	t.Helper()
	req := f.request(t, method, path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+f.admin)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return f.do(t, req)
}

func TestAdminREST(t *testing.T) {
	f := newFixture(t)
	got := f.adminRequest(t, "POST", "/v1/resources:apply", `{"resources":[
		{"audience":{"name":"spiffe://td/a:b@c","scopes":["s"],"max_ttl":"600s"}},
		{"rule":{"name":"r","requester":{"clients":["web"]},"allow":{"audiences":["spiffe://td/a:b@c"],"scopes":["s"]}}}]}`)
	var applied struct {
		Revision string
		Created  []struct{ Kind, Name string }
	}
	if err := json.Unmarshal([]byte(got.raw), &applied); err != nil || got.http != 200 || applied.Revision != "2" || len(applied.Created) != 2 {
		t.Fatalf("apply: %d %s %v", got.http, got.raw, err)
	}
	if got.header.Get("Cache-Control") != "no-store" {
		t.Error(got.header)
	}
	for _, path := range []string{"/v1/resources/Audience/spiffe://td/a:b@c", "/v1/resources/Audience/spiffe:%2F%2Ftd%2Fa%3Ab@c"} {
		if got := f.adminRequest(t, "GET", path, ""); got.http != 200 || !strings.Contains(got.raw, `"max_ttl"`) {
			t.Errorf("%s: %d %s", path, got.http, got.raw)
		}
	}
	if got := f.adminRequest(t, "GET", "/v1/resources/Audience/none", ""); got.http != 404 || got.code != sts.NotFound {
		t.Errorf("get: %d %s", got.http, got.raw)
	}
	if got := f.adminRequest(t, "DELETE", "/v1/resources/Audience/none", ""); got.http != 404 {
		t.Errorf("delete: %d %s", got.http, got.raw)
	}
	if got := f.adminRequest(t, "DELETE", "/v1/resources/Audience/spiffe://td/a:b@c", ""); got.http != 400 || got.code != sts.InvalidResource || !strings.Contains(got.raw, "Rule/r.") {
		t.Errorf("delete of what is in use: %d %s", got.http, got.raw)
	}
	if got := f.adminRequest(t, "DELETE", "/v1/resources/Rule/r", ""); got.http != 200 {
		t.Errorf("delete: %d %s", got.http, got.raw)
	}
	if got := f.adminRequest(t, "POST", "/v1/resources:apply", `{"expected_revision":"1","delete":[{"kind":"Client","name":"web"}]}`); got.http != 409 || got.code != sts.Conflict {
		t.Errorf("conflict: %d %s", got.http, got.raw)
	}
}

func TestAdminListPages(t *testing.T) {
	f := newFixture(t)
	seen, token := 0, ""
	for range 10 {
		got := f.adminRequest(t, "GET", "/v1/resources?page_size=2&page_token="+token, "")
		var page struct {
			Resources []map[string]any
			Next      string `json:"next_page_token"`
		}
		if err := json.Unmarshal([]byte(got.raw), &page); err != nil || got.http != 200 {
			t.Fatalf("%d %s %v", got.http, got.raw, err)
		}
		seen += len(page.Resources)
		if token = page.Next; token == "" {
			break
		}
	}
	if seen != 5 {
		t.Errorf("%d resources", seen)
	}
	if got := f.adminRequest(t, "GET", "/v1/resources?kind=Client", ""); strings.Count(got.raw, `"client"`) != 1 {
		t.Error(got.raw)
	}
	for _, query := range []string{"kind=Other", "page_size=1001", "page_size=-1", "page_size=" + canary, "page_token=x", "other=1", "kind=Rule&kind=Rule", "pageSize=1"} {
		if got := f.adminRequest(t, "GET", "/v1/resources?"+query, ""); got.http != 400 || got.code != sts.InvalidRequest || strings.Contains(got.raw, canary) {
			t.Errorf("%s: %d %s", query, got.http, got.raw)
		}
	}
}

// Requests that are not exactly right change nothing.
func TestAdminStrict(t *testing.T) {
	f := newFixture(t)
	_, before, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	many := strings.Repeat(`{"audience":{"name":"x"}},`, maxResources) + `{"audience":{"name":"x"}}`
	for name, row := range map[string]struct {
		body string
		says string
	}{
		"unknown member":    {`{"resources":[{"client":{"name":"x","secert":1}}]}`, "secert"},
		"unknown at top":    {`{"dryrun":true}`, "dryrun"},
		"duplicate member":  {`{"dry_run":true,"dry_run":false}`, "dry_run"},
		"two kinds":         {`{"resources":[{"client":{"name":"x"},"rule":{"name":"x"}}]}`, ""},
		"no kind":           {`{"resources":[{}]}`, "resources[0]"},
		"kind of a delete":  {`{"delete":[{"kind":"X","name":"y"}]}`, "delete[0].kind"},
		"negative duration": {`{"resources":[{"audience":{"name":"x","max_ttl":"-1s"}}]}`, "resources[0].audience.max_ttl"},
		"dangling":          {`{"resources":[{"rule":{"name":"x","requester":{"clients":["web"]},"allow":{"audiences":["nope"]}}}]}`, "resources[0].rule.allow.audiences[0]"},
		"trailing":          {`{} {}`, ""},
		"not JSON":          {`kind: Client`, ""},
		"too many":          {`{"resources":[` + many + `]}`, "resources"},
	} {
		got := f.adminRequest(t, "POST", "/v1/resources:apply", row.body)
		if got.http != 400 || !strings.Contains(got.raw, row.says) || !strings.Contains(got.raw, `"details"`) {
			t.Errorf("%s: %d %s", name, got.http, got.raw)
		}
	}
	if got := f.adminRequest(t, "POST", "/v1/resources:apply", `{"x":"`+strings.Repeat("x", maxApply)+`"}`); got.http != 413 {
		t.Errorf("8 MiB: %d", got.http)
	}
	if got := f.adminRequest(t, "GET", "/v1/resources:apply", ""); got.http != 405 || got.header.Get("Allow") != "POST" {
		t.Errorf("GET: %d %s", got.http, got.raw)
	}
	if _, after, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "web"}); err != nil || after != before {
		t.Errorf("revision %d became %d: %v", before, after, err)
	}
}

// 10,000 resources pass in one change of either face.
func TestAdminLargeApply(t *testing.T) {
	f := newFixture(t)
	req := &stsv1.ApplyRequest{DryRun: true}
	for i := range maxResources {
		req.Resources = append(req.Resources, &stsv1.Resource{Kind: &stsv1.Resource_Client{Client: &stsv1.Client{Name: fmt.Sprintf("client-%d", i), Description: strings.Repeat("d", 200)}}})
	}
	if proto.Size(req) < 8*maxMessage {
		t.Fatal("not large")
	}
	one := req.Resources[0]
	for name, do := range map[string]func(*stsv1.ApplyRequest) answer{
		"HTTP": func(m *stsv1.ApplyRequest) answer {
			body, err := protojson.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			return f.adminRequest(t, "POST", "/v1/resources:apply", string(body))
		},
		"gRPC": func(m *stsv1.ApplyRequest) answer {
			var parts []*stsv1.ApplyRequest
			for some := range slices.Chunk(m.Resources, 1000) {
				parts = append(parts, &stsv1.ApplyRequest{Resources: some})
			}
			parts[0].DryRun = m.DryRun
			resp, err := f.applyMany(t, parts...)
			out := answerOf(err)
			out.raw += protojson.Format(resp)
			return out
		},
	} {
		if got := do(req); got.code != "" || strings.Count(got.raw, `"name"`) != maxResources {
			t.Errorf("%s: %d created: %s", name, strings.Count(got.raw, `"name"`), got.message)
		}
		more := &stsv1.ApplyRequest{DryRun: true, Resources: append(slices.Clip(req.Resources), one)}
		if got := do(more); got.code != sts.InvalidRequest || !strings.Contains(got.message, "more than 10000 resources") {
			t.Errorf("%s: one more: %s", name, got.raw)
		}
	}
}

// The JSON face of the token methods is lenient where OAuth is.
func TestJSONTokens(t *testing.T) {
	f := newFixture(t)
	for _, row := range []struct {
		name, path, body, ctype string
		http                    int
		want                    sts.Code
	}{
		{"good", "issue", `{"audience":"api"}`, "application/json", 200, ""},
		{"list", "issue", `{"audience":["api","https://api.example.com"]}`, "application/json; charset=utf-8", 200, ""},
		{"unknown member", "issue", `{"audience":"api","x":{"y":[1]}}`, "application/json", 200, ""},
		{"null and empty", "issue", `{"audience":"api","scope":null,"resource":"","client_id":""}`, "application/json", 200, ""},
		{"duplicate member", "issue", `{"audience":"api","audience":"api"}`, "application/json", 400, sts.InvalidRequest},
		{"wrong type", "issue", `{"audience":"api","scope":["read"]}`, "application/json", 400, sts.InvalidRequest},
		{"number", "issue", `{"audience":1}`, "application/json", 400, sts.InvalidRequest},
		{"not an object", "issue", `["` + canary + `"]`, "application/json", 400, sts.InvalidRequest},
		{"empty body", "issue", ``, "application/json", 400, sts.InvalidRequest},
		{"A-18 client_assertion", "issue", `{"audience":"api","client_assertion":"` + canary + `"}`, "application/json", 400, sts.InvalidRequest},
		{"P-04 form", "issue", `{"audience":"api"}`, formType, 415, sts.InvalidRequest},
		{"P-06 64 KiB", "issue", `{"x":"` + strings.Repeat("x", maxForm) + `"}`, "application/json", 413, sts.InvalidRequest},
		{"P-02 query", "issue?client_secret=" + canary, `{"audience":"api"}`, "application/json", 400, sts.InvalidRequest},
		{"other grant", "issue", `{"audience":"api","grant_type":"` + string(sts.TokenExchange) + `"}`, "application/json", 400, sts.UnsupportedGrantType},
		{"T-43 no subject token", "exchange", `{"audience":"api"}`, "application/json", 400, sts.InvalidRequest},
	} {
		t.Run(row.name, func(t *testing.T) {
			req := f.request(t, http.MethodPost, "/v1/token:"+row.path, strings.NewReader(row.body))
			req.Header.Set("Content-Type", row.ctype)
			req.Header.Set("Authorization", basicAuth("web", f.secret))
			b := f.before()
			got := f.do(t, req)
			if got.http != row.http {
				t.Errorf("status %d: %s", got.http, got.raw)
			}
			if row.want == "" {
				if got.token == "" {
					t.Error(got.raw)
				}
				return
			}
			f.assertRefused(t, b, got, row.want)
		})
	}
}
