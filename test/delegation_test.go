package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"testing"
)

// TestDelegationChain takes a user's token of another issuer through gateway and
// orders to payments, each hop narrower, and looks at the chain of actors in the
// token and in the audit log.
func TestDelegationChain(t *testing.T) {
	idp := newIssuer(t)
	n := startDev(t, t.TempDir())
	secrets := map[string]string{}
	resources := idp.yaml("idp")
	for _, name := range []string{"gateway", "orders", "payments"} {
		out, _, _ := n.stsctl(t, "", "secret", "new", "-o", "json")
		var made struct{ Secret, Hash string }
		if err := json.Unmarshal([]byte(out), &made); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		secrets[name] = made.Secret
		resources += fmt.Sprintf(`---
kind: Audience
name: %[1]s
scopes: [orders.write, payments.write, profile]
---
kind: Client
name: %[1]s
audiences: [%[1]s]
secrets: [{hash: "%[2]s"}]
`, name, made.Hash)
	}
	n.apply(t, resources+`---
kind: Rule
name: users-enter
requester: {clients: [gateway]}
subject: {issuer: idp}
allow: {audiences: [gateway], scopes: [orders.write, payments.write, profile]}
---
kind: Rule
name: gateway-to-orders
requester: {clients: [gateway]}
subject: {issuer: self}
allow: {audiences: [orders], scopes: [orders.write, payments.write], ttl: 5m}
---
kind: Rule
name: orders-to-payments
requester: {clients: [orders]}
subject: {issuer: self}
allow: {audiences: [payments], scopes: [payments.write, profile], ttl: 1m}
`)
	hop := func(client, subject, kind, audience, scope string) reply {
		form := url.Values{"grant_type": {grantExchange}, "subject_token": {subject}, "subject_token_type": {kind}, "audience": {audience}}
		if scope != "" {
			form.Set("scope", scope)
		}
		return n.post(t, form, func(r *http.Request) { r.SetBasicAuth(client, secrets[client]) })
	}
	user := idp.token(t, n, nil)
	first := hop("gateway", user, typeJWT, "gateway", "")
	second := hop("gateway", first.str("access_token"), typeAccessToken, "orders", "")
	third := hop("orders", second.str("access_token"), typeAccessToken, "payments", "")
	if third.status != http.StatusOK {
		t.Fatalf("%s\n%s\n%s", first.raw, second.raw, third.raw)
	}
	claims := verify(t, n.env["STS_ISSUER"], "payments", third.str("access_token"))
	act, _ := claims["act"].(map[string]any)
	below, _ := act["act"].(map[string]any)
	if claims["sub"] != "idp:job-1" || act["sub"] != "orders" || below["sub"] != "gateway" || below["act"] != nil {
		t.Errorf("sub %v, act %v; want orders acting on top of gateway", claims["sub"], claims["act"])
	}
	if claims["scope"] != "payments.write" {
		t.Errorf("scope %q: profile was given up at the second hop and must not come back", claims["scope"])
	}
	if entered := verify(t, n.env["STS_ISSUER"], "gateway", first.str("access_token")); entered["txn"] != claims["txn"] || entered["exp"].(float64) < claims["exp"].(float64) {
		t.Errorf("txn %v became %v, exp %v became %v", entered["txn"], claims["txn"], entered["exp"], claims["exp"])
	}
	records := n.audit(t)
	last := records[len(records)-1]
	issued, _ := last["issued"].(map[string]any)
	subject, _ := last["subject"].(map[string]any)
	if fmt.Sprint(issued["act"]) != "[orders gateway]" || fmt.Sprint(subject["act"]) != "[gateway]" || last["client"] != "orders" {
		t.Errorf("the record does not show the chain: %v", last)
	}

	// What must not work: payments was never asked about by the gateway's token,
	// and a token is no use to whom it is not addressed.
	for name, r := range map[string]reply{
		"a scope that was given up":         hop("orders", second.str("access_token"), typeAccessToken, "payments", "profile"),
		"a token addressed to another":      hop("orders", first.str("access_token"), typeAccessToken, "payments", ""),
		"an audience without a rule":        hop("gateway", first.str("access_token"), typeAccessToken, "payments", ""),
		"a client without a rule":           hop("payments", third.str("access_token"), typeAccessToken, "orders", ""),
		"an access token declared as a jwt": hop("orders", second.str("access_token"), typeJWT, "payments", ""),
	} {
		if r.status == http.StatusOK {
			t.Errorf("%s is accepted: %s", name, r.raw)
		}
	}
}
