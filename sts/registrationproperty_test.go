package sts_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// TestRegistrationBounds registers, changes and deletes clients in any order, with
// any metadata, while the templates change. Whatever becomes of them, nobody gets a
// token that the labels, grants and methods of their template do not give as it is
// at that moment, there are never more of them than it allows, and what is deleted
// never gets another.
func TestRegistrationBounds(t *testing.T) {
	outer, tokens := t, 0
	rapid.Check(t, func(t *rapid.T) {
		w := newRegistrationWorld(outer)
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0:
				w.change(t, outer)
			case 1:
				w.delete(t)
			case 2:
				w.template(t, outer)
			default:
				w.register(t, outer)
			}
			tokens += w.hold(t)
		}
	})
	if tokens == 0 {
		t.Error("no registered client ever got a token: the worlds are of no use")
	}
}

type registrationWorld struct {
	f         *fixture
	templates map[string]*sts.ClientTemplate
	there     []sts.Registered // with the secrets of those that were not deleted
	gone      []sts.Registered
	initial   map[string]string
}

// registrationLabels are what templates give, each of which has a rule for an
// audience of its name and for no other.
var registrationLabels = []string{"red", "blue"}

func newRegistrationWorld(t testing.TB) *registrationWorld {
	w := &registrationWorld{f: newRegistrationFixture(t), templates: map[string]*sts.ClientTemplate{}, initial: map[string]string{}}
	var put []sts.Resource
	for _, name := range []string{"agents", "partners"} {
		w.templates[name] = &sts.ClientTemplate{Name: name, Methods: []sts.AuthMethod{sts.SecretBasic}, MaxClients: 3, MaxPerMinute: 6000}
		put = append(put, sts.Resource{ClientTemplate: w.templates[name]})
		w.initial[name] = w.f.initial(t, "sts.register."+name)
	}
	for _, label := range registrationLabels {
		put = append(put, sts.Resource{Audience: &sts.Audience{Name: label, Scopes: []string{"use"}}},
			rule(label, policy.Rule{Requester: policy.Requester{Labels: map[string]string{"color": label}}, Allow: allow(label, "use")}))
	}
	w.f.apply(t, sts.Change{Put: put})
	return w
}

// metadata draws what somebody may try to register.
func (w *registrationWorld) metadata(t *rapid.T, outer testing.TB) map[string]any {
	m := map[string]any{"labels": map[string]any{"color": "blue"}, "scope": "use", "audience": "blue", "client_id": "web", "disabled": false}
	pick := func(field string, values ...any) {
		if v := rapid.SampledFrom(append(values, nil)).Draw(t, field); v != nil {
			m[field] = v
		}
	}
	pick("token_endpoint_auth_method", "client_secret_basic", "client_secret_post", "private_key_jwt", "none", "federated_jwt")
	pick("grant_types", []any{"client_credentials"}, []any{string(sts.TokenExchange)}, []any{"client_credentials", string(sts.TokenExchange)}, []any{"password"})
	pick("jwks_uri", "https://keys.example.com/jwks", "https://evil.example.net/jwks", "https://127.0.0.1/")
	if rapid.IntRange(0, 3).Draw(t, "jwks") == 0 {
		m["jwks"] = w.f.jwksObject(outer)
	}
	return m
}

func (w *registrationWorld) register(t *rapid.T, outer testing.TB) {
	name := rapid.SampledFrom([]string{"agents", "partners"}).Draw(t, "template")
	done, err := w.f.service.Register(outer.Context(), sts.RegistrationRequest{Use: bearer(w.initial[name]), Metadata: w.metadata(t, outer)})
	if err == nil {
		w.there = append(w.there, done)
	}
}

func (w *registrationWorld) change(t *rapid.T, outer testing.TB) {
	if len(w.there) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.there)-1).Draw(t, "client")
	m := w.metadata(t, outer)
	m["client_id"] = w.there[i].Name
	done, err := w.f.service.UpdateRegistration(outer.Context(), sts.RegistrationRequest{Use: bearer(w.there[i].AccessToken), ClientID: w.there[i].Name, Metadata: m})
	if err == nil {
		w.there[i] = done
	}
}

func (w *registrationWorld) delete(t *rapid.T) {
	if len(w.there) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.there)-1).Draw(t, "client")
	if _, err := w.f.service.DeleteRegistration(t.Context(), sts.RegistrationRequest{Use: bearer(w.there[i].AccessToken), ClientID: w.there[i].Name}); err != nil {
		t.Fatal(err)
	}
	w.gone = append(w.gone, w.there[i])
	w.there = slices.Delete(slices.Clone(w.there), i, i+1)
}

// template changes a template.
func (w *registrationWorld) template(t *rapid.T, outer testing.TB) {
	name := rapid.SampledFrom([]string{"agents", "partners"}).Draw(t, "template")
	next := *w.templates[name]
	next.Methods = rapid.SampledFrom([][]sts.AuthMethod{{sts.SecretBasic}, {sts.SecretBasic, sts.SecretPost, sts.PrivateKeyJWT}, {sts.PrivateKeyJWT}}).Draw(t, "methods")
	next.GrantTypes = rapid.SampledFrom([][]sts.GrantType{nil, {sts.ClientCredentials}, {sts.TokenExchange}}).Draw(t, "grants")
	next.Labels = map[string]string{"color": rapid.SampledFrom(append(slices.Clone(registrationLabels), "none")).Draw(t, "color")}
	if next.JWKSHosts = nil; slices.Contains(next.Methods, sts.PrivateKeyJWT) && rapid.Bool().Draw(t, "hosts") {
		next.JWKSHosts = []string{"keys.example.com"}
	}
	w.f.apply(outer, sts.Change{Put: []sts.Resource{{ClientTemplate: &next}}})
	w.templates[name] = &next
}

// hold tries everything that registered clients could get, and returns how many
// tokens there were.
func (w *registrationWorld) hold(t *rapid.T) int {
	tokens := 0
	for _, done := range w.there {
		template := w.templates[done.Template]
		for _, audience := range append(slices.Clone(registrationLabels), "api", "web", registration) {
			r := as(done)
			r.Audiences = []string{audience}
			token, err := w.f.service.Token(t.Context(), r)
			if err != nil {
				continue
			}
			tokens++
			if audience != template.Labels["color"] || !slices.Equal(token.Scopes, []string{"use"}) {
				t.Fatalf("a client of %+v got a token for %s with %v", template, audience, token.Scopes)
			}
			if !slices.Contains(template.Methods, done.Metadata.AuthMethod) || !slices.Contains(done.Metadata.GrantTypes, sts.ClientCredentials) {
				t.Fatalf("%+v got a token, by %+v", done.Metadata, template)
			}
			if len(template.GrantTypes) > 0 && slices.ContainsFunc(done.Metadata.GrantTypes, func(g sts.GrantType) bool { return !slices.Contains(template.GrantTypes, g) }) {
				t.Fatalf("%+v got a token, by %+v", done.Metadata, template)
			}
		}
	}
	for _, done := range w.gone {
		if _, err := w.f.service.Token(t.Context(), as(done)); err == nil {
			t.Fatalf("%s got a token after it was deleted", done.Name)
		}
	}
	count := map[string]int{}
	for name, r := range w.f.registered.All() {
		count[r.Template]++
		if !strings.HasPrefix(name, r.Template+"~") {
			t.Fatalf("client %s is of %s", name, r.Template)
		}
	}
	for _, n := range count {
		if n > 3 {
			t.Fatalf("%v clients, at most 3 are allowed", count)
		}
	}
	// Nobody guesses here; the throttle is not what is tested.
	w.f.now = w.f.now.Add(time.Second)
	return tokens
}
