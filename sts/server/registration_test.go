package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// withRegistration lets the client web register clients by the template agents,
// which may read at api.
func (f *fixture) withRegistration(t *testing.T) (initial string) {
	t.Helper()
	_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{
		{ClientTemplate: &sts.ClientTemplate{Name: "agents", Methods: []sts.AuthMethod{sts.SecretBasic}, Labels: map[string]string{"tier": "agent"}, MaxPerMinute: 6000}},
		{Audience: &sts.Audience{Name: "registration", Identifiers: []string{f.service.RegistrationAudience()}, Scopes: []string{"sts.register.agents"}}},
		{Rule: &policy.Rule{Name: "registrars", Requester: policy.Requester{Clients: []string{"web"}}, Allow: policy.Allow{Audiences: []string{"registration"}, Scopes: []string{"sts.register.agents"}}}},
		{Rule: &policy.Rule{Name: "agents", Requester: policy.Requester{Labels: map[string]string{"tier": "agent"}}, Allow: policy.Allow{Audiences: []string{"api"}, Scopes: []string{"read"}}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return f.adminToken(t, "sts.register.agents", nil, f.service.RegistrationAudience())
}

func (f *fixture) registerHTTP(t *testing.T, method, path, token, body string) (answer, map[string]any) {
	t.Helper()
	req := f.request(t, method, path, strings.NewReader(body))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	got := f.do(t, req)
	var members map[string]any
	if len(got.raw) > 0 && json.Unmarshal([]byte(got.raw), &members) != nil {
		t.Fatal(got.raw)
	}
	return got, members
}

// TestRegistrationEndpoint is RFC 7591 and RFC 7592 over HTTP.
func TestRegistrationEndpoint(t *testing.T) {
	f := newFixture(t)
	initial := f.withRegistration(t)
	got, m := f.registerHTTP(t, http.MethodPost, registrationPath, initial, `{"client_name":"a","redirect_uris":["https://a.example.com"],"unknown":{"x":[1,null]}}`)
	if got.http != http.StatusCreated || got.header.Get("Cache-Control") != "no-store" || got.decision == "" {
		t.Fatalf("%d %v %s\n%s", got.http, got.header, got.raw, f.log.String())
	}
	id, _ := m["client_id"].(string)
	secret, _ := m["client_secret"].(string)
	own, _ := m["registration_access_token"].(string)
	uri, _ := m["registration_client_uri"].(string)
	path := strings.TrimPrefix(uri, issuer)
	if id == "" || secret == "" || own == "" || path != registrationPath+"/"+id || m["client_name"] != "a" || m["unknown"] != nil || m["client_secret_expires_at"] != 0.0 {
		t.Fatalf("%v", m)
	}
	if token := f.form(t, ask{auth: []string{basicAuth(id, secret)}, params: map[string][]string{"audience": {"api"}}}); token.scope != "read" {
		t.Error(token.raw)
	}
	if got, m := f.registerHTTP(t, http.MethodGet, path, own, ""); got.http != http.StatusOK || m["client_id"] != id || m["client_secret"] != nil || m["registration_access_token"] != own {
		t.Errorf("%d %s", got.http, got.raw)
	}
	if got, m := f.registerHTTP(t, http.MethodPut, path, own, `{"client_id":"`+id+`","client_name":"b"}`); got.http != http.StatusOK || m["client_name"] != "b" || m["client_secret"] == nil {
		t.Errorf("%d %s", got.http, got.raw)
	}
	for name, tc := range map[string]struct {
		method, path, token, body string
		status                    int
		code                      sts.Code
	}{
		"no token":                     {"POST", registrationPath, "", `{}`, 401, sts.Unauthenticated},
		"an ordinary token":            {"POST", registrationPath, f.form(t, f.good()).token, `{}`, 401, sts.Unauthenticated},
		"R-14 null":                    {"POST", registrationPath, initial, `null`, 400, sts.InvalidClientMetadata},
		"R-14 a list":                  {"POST", registrationPath, initial, `[]`, 400, sts.InvalidClientMetadata},
		"R-14 a member twice":          {"POST", registrationPath, initial, `{"client_name":"a","client_name":"b"}`, 400, sts.InvalidClientMetadata},
		"R-14 too large":               {"POST", registrationPath, initial, `{"client_name":"` + strings.Repeat("x", 1<<20) + `"}`, 413, sts.InvalidRequest},
		"R-14 not UTF-8":               {"POST", registrationPath, initial, "{\"client_name\":\"\xff\"}", 400, sts.InvalidClientMetadata},
		"deep":                         {"POST", registrationPath, initial, strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000), 400, sts.InvalidClientMetadata},
		"a query":                      {"POST", registrationPath + "?x=y", initial, `{}`, 400, sts.InvalidRequest},
		"wrong method":                 {"GET", registrationPath, initial, "", 405, sts.InvalidRequest},
		"wrong method at a client":     {"POST", path, own, `{}`, 405, sts.InvalidRequest},
		"R-10 no such client":          {"GET", registrationPath + "/nobody", "x", "", 401, sts.Unauthenticated},
		"change without a client_id":   {"PUT", path, own, `{}`, 400, sts.InvalidClientMetadata},
		"more than the template":       {"POST", registrationPath, initial, `{"token_endpoint_auth_method":"private_key_jwt","jwks_uri":"https://127.0.0.1/"}`, 400, sts.InvalidClientMetadata},
		"a statement nobody asked for": {"POST", registrationPath, initial, `{"software_statement":"x"}`, 400, sts.UnapprovedSoftwareStatement},
	} {
		t.Run(name, func(t *testing.T) {
			records, kept := len(f.audit.all()), len(f.registered.All())
			got, _ := f.registerHTTP(t, tc.method, tc.path, tc.token, tc.body)
			if got.http != tc.status || got.code != tc.code || got.decision == "" {
				t.Errorf("%d %v %s", got.http, got.header, got.raw)
			}
			if all := f.audit.all(); len(all) != records+1 || all[records].Event != sts.EventRegister || all[records].Outcome != "deny" {
				t.Errorf("%d records", len(all)-records)
			}
			if tc.status == 401 && !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("WWW-Authenticate %q", got.header.Get("WWW-Authenticate"))
			}
			if len(f.registered.All()) != kept {
				t.Error("something was registered")
			}
		})
	}
	if got, _ := f.registerHTTP(t, http.MethodDelete, path, own, ""); got.http != http.StatusNoContent || got.raw != "" {
		t.Errorf("%d %s", got.http, got.raw)
	}
	if got, _ := f.registerHTTP(t, http.MethodGet, path, own, ""); got.http != http.StatusUnauthorized {
		t.Errorf("%d %s", got.http, got.raw)
	}
	for _, secret := range []string{secret, own, initial} {
		if strings.Contains(f.log.String(), secret) {
			t.Error("a secret is in the log")
		}
	}
}

// TestRegistrationService is the same over gRPC, and what operators see.
func TestRegistrationService(t *testing.T) {
	f := newFixture(t)
	initial := f.withRegistration(t)
	registrar := stsv1.NewRegistrationServiceClient(f.conn)
	as := func(token string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
	}
	members, err := structpb.NewStruct(map[string]any{"client_name": "agent"})
	if err != nil {
		t.Fatal(err)
	}
	done, err := registrar.RegisterClient(as(initial), &stsv1.RegisterClientRequest{Metadata: members})
	if err != nil {
		t.Fatal(err)
	}
	m := done.GetClient().AsMap()
	id, own := m["client_id"].(string), m["registration_access_token"].(string)
	if read, err := registrar.GetClientRegistration(as(own), &stsv1.GetClientRegistrationRequest{ClientId: id}); err != nil || read.GetClient().AsMap()["client_name"] != "agent" {
		t.Errorf("%v %v", read, err)
	}
	if got := answerOf(errorOf(registrar.GetClientRegistration(as("x"), &stsv1.GetClientRegistrationRequest{ClientId: id}))); got.grpc != codes.Unauthenticated || got.decision == "" {
		t.Errorf("%+v", got)
	}
	change, err := structpb.NewStruct(map[string]any{"client_id": id, "client_name": "changed"})
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := registrar.UpdateClientRegistration(as(own), &stsv1.UpdateClientRegistrationRequest{ClientId: id, Metadata: change}); err != nil || changed.GetClient().AsMap()["client_secret"] == nil {
		t.Errorf("%v %v", changed, err)
	}

	admin := stsv1.NewAdminServiceClient(f.conn)
	list, err := admin.ListRegisteredClients(as(f.admin), &stsv1.ListRegisteredClientsRequest{Template: "agents", PageSize: 1})
	if err != nil || len(list.Clients) != 1 || list.NextPageToken != "" {
		t.Fatalf("%v %v", list, err)
	}
	if c := list.Clients[0]; c.Name != id || c.By != "web" || c.Metadata.AsMap()["client_name"] != "changed" || c.Ends == nil || c.Disabled != "" || strings.Contains(c.String(), "stsr_") {
		t.Errorf("%v", c)
	}
	if _, err := admin.DeleteRegisteredClient(as(f.admin), &stsv1.DeleteRegisteredClientRequest{Name: id}); err != nil {
		t.Fatal(err)
	}
	if all := f.audit.all(); all[len(all)-1].Registration == nil || all[len(all)-1].Registration.By.Name != "admin token" {
		t.Errorf("%+v", all[len(all)-1])
	}
	if got := answerOf(errorOf(admin.DeleteRegisteredClient(as(f.admin), &stsv1.DeleteRegisteredClientRequest{Name: id}))); got.code != sts.NotFound {
		t.Errorf("%+v", got)
	}
	if len(f.registered.All()) != 0 {
		t.Error("it is still there")
	}
}

func errorOf[T any](_ T, err error) error { return err }

// TestNoRegistrationEndpoint holds that without registration nothing of it is there.
func TestNoRegistrationEndpoint(t *testing.T) {
	f := (&fixture{closed: true}).start(t)
	if got, _ := f.registerHTTP(t, http.MethodPost, registrationPath, "x", `{}`); got.http != http.StatusNotFound {
		t.Errorf("%d %s", got.http, got.raw)
	}
	_, err := stsv1.NewRegistrationServiceClient(f.conn).RegisterClient(t.Context(), &stsv1.RegisterClientRequest{})
	if got := answerOf(err); got.grpc != codes.Unimplemented {
		t.Errorf("%v", err)
	}
	for _, path := range []string{"/.well-known/openid-configuration", "/openapi.json"} {
		if got := f.do(t, f.request(t, http.MethodGet, path, nil)); got.http != http.StatusOK || strings.Contains(got.raw, "oauth2/register") || strings.Contains(got.raw, "registration_endpoint\":\"http") {
			t.Errorf("%s: %d %.200s", path, got.http, got.raw)
		}
	}
}
