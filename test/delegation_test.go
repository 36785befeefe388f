package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

const delegation = "../deploy/examples/delegation/"

// walkDelegation starts a server with the example's resources, for which idp stands
// in the place of the issuer of the users, and returns the secrets of its clients.
func walkDelegation(t *testing.T, idp *issuer) (n *node, secrets map[string]string) {
	t.Helper()
	data, err := os.ReadFile(delegation + "resources.yaml")
	if err != nil {
		t.Fatal(err)
	}
	n = startDev(t, t.TempDir())
	secrets = map[string]string{}
	resources := strings.Replace(string(data), "issuer: https://idp.example.com\n", "issuer: "+idp.URL+"\nallow_networks: [127.0.0.0/8]\ninsecure_http: true\n", 1)
	n.apply(t, resources)
	for _, name := range []string{"gateway", "orders", "payments"} {
		out, _, _ := n.stsctl(t, "", "client", "rotate-secret", name, "-o", "json")
		var made struct{ Secret string }
		if err := json.Unmarshal([]byte(out), &made); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		secrets[name] = made.Secret
	}
	return n, secrets
}

// buyer is a token of a user that may buy.
func buyer(t *testing.T, idp *issuer, n *node, edit func(claims map[string]any)) string {
	return idp.token(t, n, func(_ map[jose.HeaderKey]any, claims map[string]any) {
		claims["sub"], claims["groups"] = "alice", []string{"staff", "buyers"}
		if edit != nil {
			edit(claims)
		}
	})
}

// TestDelegationExample runs the script of docs/delegation.md as it stands there, and
// looks at the tokens and at the audit records.
func TestDelegationExample(t *testing.T) {
	idp := newIssuer(t)
	n, secrets := walkDelegation(t, idp)
	env := append(n.environ(), "USER_TOKEN="+buyer(t, idp, n, nil), "GATEWAY_SECRET="+secrets["gateway"], "ORDERS_SECRET="+secrets["orders"])
	out, stderr, code := command(t, env, "", "/bin/sh", delegation+"walk.sh")
	tokens := strings.Fields(out)
	if code != 0 || len(tokens) != 3 {
		t.Fatalf("%d tokens: %s", len(tokens), stderr)
	}
	var txn any
	exp := 1e18
	for i, want := range []struct{ audience, scope, actors string }{
		{"gateway", "orders.read orders.write payments.write", "[gateway]"},
		{"orders", "orders.write payments.write", "[gateway]"},
		{"payments", "payments.write", "[orders gateway]"},
	} {
		claims := verify(t, n.env["STS_ISSUER"], want.audience, tokens[i])
		if claims["sub"] != "idp:alice" || claims["scope"] != want.scope || claims["exchanges"] != float64(i+1) {
			t.Errorf("%s: sub %v, scope %v, exchanges %v", want.audience, claims["sub"], claims["scope"], claims["exchanges"])
		}
		var actors []any
		for act, _ := claims["act"].(map[string]any); act != nil; act, _ = act["act"].(map[string]any) {
			actors = append(actors, act["sub"])
		}
		if fmt.Sprint(actors) != want.actors {
			t.Errorf("%s: actors %v, want %s", want.audience, actors, want.actors)
		}
		if txn == nil {
			txn = claims["txn"]
		}
		if claims["txn"] != txn || claims["exp"].(float64) > exp {
			t.Errorf("%s: txn %v of %v, exp %v after %v", want.audience, claims["txn"], txn, claims["exp"], exp)
		}
		exp = claims["exp"].(float64)
	}
	records := n.audit(t)
	last := records[len(records)-1]
	issued, _ := last["issued"].(map[string]any)
	subject, _ := last["subject"].(map[string]any)
	if fmt.Sprint(issued["act"]) != "[orders gateway]" || fmt.Sprint(subject["act"]) != "[gateway]" || last["client"] != "orders" ||
		issued["txn"] != txn || subject["txn"] != txn || issued["exchanges"] != 3.0 || fmt.Sprint(issued["rules"]) != "[orders-calls-payments]" {
		t.Errorf("the record does not show the chain: %v", last)
	}
}

// TestDelegationRefused is what must not work with the rules of the example.
func TestDelegationRefused(t *testing.T) {
	idp := newIssuer(t)
	n, secrets := walkDelegation(t, idp)
	hop := func(client, subject, kind, audience, scope string) reply {
		form := url.Values{"grant_type": {grantExchange}, "subject_token": {subject}, "subject_token_type": {kind}, "audience": {audience}}
		if scope != "" {
			form.Set("scope", scope)
		}
		return n.post(t, form, func(r *http.Request) { r.SetBasicAuth(client, secrets[client]) })
	}
	first := hop("gateway", buyer(t, idp, n, nil), typeJWT, "gateway", "").str("access_token")
	second := hop("gateway", first, typeAccessToken, "orders", "orders.write payments.write").str("access_token")
	third := hop("orders", second, typeAccessToken, "payments", "").str("access_token")
	if third == "" {
		t.Fatal("the good walk does not get there")
	}
	suspended := hop("gateway", buyer(t, idp, n, func(c map[string]any) { c["suspended"] = true }), typeJWT, "gateway", "")
	if scope := suspended.str("scope"); scope != "orders.read orders.write" {
		t.Errorf("a suspended user gets %q: %s", scope, suspended.raw)
	}
	visitor := hop("gateway", buyer(t, idp, n, func(c map[string]any) { delete(c, "groups") }), typeJWT, "gateway", "")
	if scope := visitor.str("scope"); scope != "orders.read" {
		t.Errorf("a user without groups gets %q: %s", scope, visitor.raw)
	}
	for name, r := range map[string]reply{
		"a scope that was given up":         hop("gateway", hop("gateway", first, typeAccessToken, "orders", "orders.read").str("access_token"), typeAccessToken, "orders", "orders.write"),
		"a token addressed to another":      hop("orders", first, typeAccessToken, "payments", ""),
		"an audience without a rule":        hop("gateway", first, typeAccessToken, "payments", ""),
		"a client without a rule":           hop("payments", third, typeAccessToken, "orders", ""),
		"an access token declared as a jwt": hop("orders", second, typeJWT, "payments", ""),
		"a suspended user who pays":         hop("gateway", buyer(t, idp, n, func(c map[string]any) { c["suspended"] = true }), typeJWT, "gateway", "payments.write"),
		"a token that is too old": hop("gateway", buyer(t, idp, n, func(c map[string]any) {
			c["iat"] = c["iat"].(int64) - 700
		}), typeJWT, "gateway", ""),
	} {
		if r.status == http.StatusOK {
			t.Errorf("%s is accepted: %s", name, r.raw)
		}
	}
	// Three payments for one request of the user, of which one was above.
	var statuses []int
	for range 4 {
		statuses = append(statuses, hop("orders", second, typeAccessToken, "payments", "payments.write").status)
	}
	if !slices.Equal(statuses, []int{200, 200, 400, 400}) {
		t.Errorf("four more payments: %v", statuses)
	}
}
