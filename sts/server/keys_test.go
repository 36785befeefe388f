package server

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
)

// sameJSON compares what protojson writes, whose spaces vary.
func sameJSON(t *testing.T, got, want string) bool {
	t.Helper()
	var a, b any
	if err := json.Unmarshal([]byte(got), &a); err != nil {
		t.Fatalf("%s: %v", got, err)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatalf("%s: %v", want, err)
	}
	return reflect.DeepEqual(a, b)
}

const (
	currentJSON = `{"set":"default","kid":"k1","algorithm":"ES256","role":"current","location":"transit/keys/sts version 1",
		"published":"2026-11-24T12:00:00Z","signs":"2026-11-24T13:00:00Z","verifiers":3,"fetches":"12","last_fetch":"2026-11-24T14:00:00Z"}`
	nextJSON    = `{"set":"default","kid":"k2","algorithm":"ES256","role":"next","published":"2026-11-24T12:00:00Z","signs":"2026-11-24T13:00:00Z"}`
	revokedJSON = `{"set":"default","kid":"k1","algorithm":"ES256","role":"revoked","location":"transit/keys/sts version 1",
		"published":"2026-11-24T12:00:00Z","signs":"2026-11-24T13:00:00Z","revoked":"2026-11-24T15:00:00Z","verifiers":3,"fetches":"12","last_fetch":"2026-11-24T14:00:00Z"}`
)

func TestKeysREST(t *testing.T) {
	f := newFixture(t)
	for _, row := range []struct {
		name, method, path, body string
		http                     int
		want                     string // the whole answer if it is a JSON object, else what is in it
	}{
		{"list", "GET", "/v1/keys", "", 200, `{"key_sets":[{"name":"default","algorithm":"ES256","provider":"vault","keys":[` + nextJSON + `,` + currentJSON + `],
			"rotation_due":"2026-12-24T12:00:00Z","problems":["the key can be exported"]}]}`},
		{"rotate", "POST", "/v1/keys/default:rotate", "{}", 200, `{"key":` + nextJSON + `}`},
		{"revoke", "POST", "/v1/keys:revoke", `{"kid":"k1"}`, 200, `{"revoked":` + revokedJSON + `,"successor":` + nextJSON + `,"accepted_until":"2026-11-24T16:00:00Z"}`},
		{"revoke without a successor", "POST", "/v1/keys:revoke", `{"kid":"k2"}`, 200, `{"revoked":` + revokedJSON + `,"accepted_until":"2026-11-24T16:00:00Z"}`},
		{"rotate what is not there", "POST", "/v1/keys/other:rotate", "{}", 404, "no such key set"},
		{"revoke what is not there", "POST", "/v1/keys:revoke", `{"kid":"other"}`, 404, "no such key"},
		{"revoke nothing", "POST", "/v1/keys:revoke", `{}`, 400, "kid is missing"},
		{"unknown member", "POST", "/v1/keys:revoke", `{"key":"k1"}`, 400, `"details"`},
		{"no body", "POST", "/v1/keys/default:rotate", "", 415, "application/json"},
		{"too much", "POST", "/v1/keys:revoke", `{"kid":"` + strings.Repeat("x", maxForm) + `"}`, 413, "64 KiB"},
		{"query", "GET", "/v1/keys?kid=k1", "", 400, "a parameter that this method does not have"},
		{"query of revoke", "POST", "/v1/keys:revoke?kid=k1", `{}`, 400, "a parameter that this method does not have"},
		{"wrong method", "GET", "/v1/keys:revoke", "", 405, "does not take this method"},
		{"deep path", "POST", "/v1/keys/a/b:rotate", "{}", 404, "nothing at this path"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := f.adminRequest(t, row.method, row.path, row.body)
			if got.http != row.http || !strings.HasPrefix(row.want, "{") && !strings.Contains(got.raw, row.want) {
				t.Fatalf("%d %s, want %d %s", got.http, got.raw, row.http, row.want)
			}
			if strings.HasPrefix(row.want, "{") && !sameJSON(t, got.raw, row.want) {
				t.Errorf("%s, want %s", got.raw, row.want)
			}
		})
	}
	for path, want := range map[string]string{"/v1/keys": "GET", "/v1/keys:revoke": "POST", "/v1/keys/default:rotate": "POST"} {
		if got := f.adminRequest(t, "DELETE", path, ""); got.http != 405 || got.header.Get("Allow") != want {
			t.Errorf("DELETE %s: %d %v", path, got.http, got.header)
		}
	}
	f.keys.broken.Store(true)
	for path, body := range map[string]string{"/v1/keys/default:rotate": "{}", "/v1/keys:revoke": `{"kid":"k1"}`} {
		if got := f.adminRequest(t, "POST", path, body); got.http != 503 || got.code != sts.Unavailable || got.header.Get("Retry-After") != "2" || strings.Contains(got.raw, errBroken.Error()) {
			t.Errorf("%s: %d %s", path, got.http, got.raw)
		}
	}
}

// The faces agree: what gRPC answers is what the JSON says.
func TestKeysGRPC(t *testing.T) {
	f := newFixture(t)
	admin := stsv1.NewAdminServiceClient(f.conn)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+f.admin)
	list, err := admin.ListKeys(ctx, &stsv1.ListKeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.adminRequest(t, "GET", "/v1/keys", ""); !sameJSON(t, string(b), got.raw) {
		t.Errorf("%s, and over HTTP %s", b, got.raw)
	}
	if _, err := admin.RotateKey(ctx, &stsv1.RotateKeyRequest{}); answerOf(err).grpc != codes.InvalidArgument {
		t.Error(err)
	}
	if _, err := admin.RotateKey(ctx, &stsv1.RotateKeyRequest{Set: "other"}); answerOf(err).grpc != codes.NotFound {
		t.Error(err)
	}
	f.keys.broken.Store(true)
	_, err = admin.RevokeKey(ctx, &stsv1.RevokeKeyRequest{Kid: "k1"})
	if got := answerOf(err); got.grpc != codes.Unavailable || !strings.Contains(got.raw, "RetryInfo") {
		t.Error(err)
	}
}
