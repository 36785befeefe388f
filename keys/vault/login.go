package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// grant is a token and how long it lasts.
type grant struct {
	token     secret
	renewable bool
	lifetime  time.Duration // at first; 0: it has no end
	end       time.Time     // zero: none
}

// String withholds the token, which fmt would show: it does not ask members
// whether they may be shown.
func (g grant) String() string { return fmt.Sprintf("[grant until %s]", g.end) }

// authAnswer is the answer to a login and to a renewal.
type authAnswer struct {
	Auth *struct {
		Token     string          `json:"client_token"`
		Lease     seconds         `json:"lease_duration"`
		Renewable bool            `json:"renewable"`
		Uses      int             `json:"num_uses"`
		MFA       json.RawMessage `json:"mfa_requirement"`
	} `json:"auth"`
}

// login gets a token by the configured method.
func (s *session) login(ctx context.Context) (*grant, error) {
	switch l := s.config.Login; {
	case l.AppRole != nil:
		id, err := readSecret(l.AppRole.SecretIDFile)
		if err != nil {
			return nil, newError(Denied, "secret id: %w", err)
		}
		s.tried = id
		g, err := s.loginAt(ctx, l.AppRole.Mount, map[string]string{"role_id": l.AppRole.RoleID, "secret_id": string(id)})
		return g, advise(err, "logging in by approle at %s: put a new secret id into %s if it has ended, and compare role id %q with the role's",
			l.AppRole.Mount, l.AppRole.SecretIDFile, l.AppRole.RoleID)
	case l.Kubernetes != nil:
		jwt, err := readSecret(l.Kubernetes.TokenFile)
		if err != nil {
			return nil, newError(Denied, "token of the service account: %w", err)
		}
		s.tried = jwt
		g, err := s.loginAt(ctx, l.Kubernetes.Mount, map[string]string{"role": l.Kubernetes.Role, "jwt": string(jwt)})
		return g, advise(err, "logging in by kubernetes at %s: role %q must be bound to this service account and its namespace, and %s must hold its token",
			l.Kubernetes.Mount, l.Kubernetes.Role, l.Kubernetes.TokenFile)
	case l.Certificate != nil:
		body := map[string]string{}
		if l.Certificate.Role != "" {
			body["name"] = l.Certificate.Role
		}
		s.tried = secret(s.files.cert)
		g, err := s.loginAt(ctx, l.Certificate.Mount, body)
		return g, advise(err, "logging in by certificate at %s: a role there (%q, or any if empty) must trust the certificate in %s",
			l.Certificate.Mount, l.Certificate.Role, s.config.CertFile)
	default:
		return s.readToken(ctx, l.TokenFile)
	}
}

// advise says what to do about a credential that was refused. Which status a
// method refuses with differs.
func advise(err error, format string, args ...any) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	told := *e
	switch e.Kind {
	case Refused, Denied, NoKey:
		told.Kind = Denied
		told.Err = fmt.Errorf(format+" (status %d)", append(args, e.Status)...)
	default:
		told.Err = fmt.Errorf("logging in: %w", e.Err)
	}
	return &told
}

// loginAt posts a credential to an auth method. What Vault says of a credential
// that it refuses is withheld: AppRole repeats the secret id in it.
func (s *session) loginAt(ctx context.Context, mount string, credential map[string]string) (*grant, error) {
	sent, err := json.Marshal(credential)
	if err != nil {
		return nil, err
	}
	at := time.Now()
	body, err := s.send(ctx, request{method: http.MethodPost, path: "auth/" + mount + "/login", body: sent, quiet: true})
	if err != nil {
		return nil, err
	}
	var a authAnswer
	if err := decodeWhole(body, &a); err != nil {
		return nil, err
	}
	if a.Auth != nil && a.Auth.Token == "" && len(a.Auth.MFA) > 0 && string(a.Auth.MFA) != "null" {
		return nil, newError(Refused, "vault asks for a second factor, which a service has not: exempt this login from it")
	}
	if a.Auth == nil || !printable(a.Auth.Token) {
		return nil, newError(Garbage, "the answer to the login holds no token")
	}
	if a.Auth.Uses > 0 {
		s.log.Warn("vault lets the token be used a few times only: set token_num_uses of the role to 0", "uses", a.Auth.Uses)
	}
	return newGrant(secret(a.Auth.Token), at, time.Duration(a.Auth.Lease), a.Auth.Renewable), nil
}

// readToken takes the token of a file and asks Vault how long it lasts.
func (s *session) readToken(ctx context.Context, file string) (*grant, error) {
	token, err := readSecret(file)
	if err != nil {
		return nil, newError(Denied, "token: %w", err)
	}
	s.tried = token
	at := time.Now()
	l, err := s.lookup(ctx, token)
	if err != nil {
		return nil, advise(err, "the token in %s is not valid: put another there; its policies must allow to read auth/token/lookup-self, as the policy default does", file)
	}
	return newGrant(token, at, time.Duration(l.TTL), l.Renewable), nil
}

func newGrant(token secret, at time.Time, ttl time.Duration, renewable bool) *grant {
	g := &grant{token: token, renewable: renewable && ttl > 0, lifetime: ttl}
	if ttl > 0 {
		g.end = at.Add(ttl)
	}
	return g
}

// lookupAnswer is what Vault says of a token.
type lookupAnswer struct {
	TTL       seconds `json:"ttl"`
	Renewable bool    `json:"renewable"`
}

// lookup asks about a token with itself. Denied: it is not valid, or its policies
// do not allow to ask.
func (s *session) lookup(ctx context.Context, token secret) (lookupAnswer, error) {
	body, err := s.send(ctx, request{method: http.MethodGet, path: "auth/token/lookup-self", token: token, repeatable: true, quiet: true})
	if err != nil {
		return lookupAnswer{}, err
	}
	var l lookupAnswer
	err = decode(body, &l)
	return l, err
}

// renewed asks for a longer life of a token.
func (s *session) renewed(ctx context.Context, g *grant) (*grant, error) {
	at := time.Now()
	body, err := s.send(ctx, request{method: http.MethodPost, path: "auth/token/renew-self", token: g.token, repeatable: true, quiet: true})
	if err != nil {
		return nil, err
	}
	var a authAnswer
	if err := decodeWhole(body, &a); err != nil {
		return nil, err
	}
	if a.Auth == nil {
		return nil, newError(Garbage, "the answer to the renewal says nothing of the token")
	}
	next := newGrant(g.token, at, time.Duration(a.Auth.Lease), a.Auth.Renewable)
	next.lifetime = g.lifetime
	// Near the end of the longest life that it can have it gets less and less.
	if time.Duration(a.Auth.Lease) < g.lifetime/2 {
		next.renewable = false
	}
	return next, nil
}

// health asks a node whether it can serve at all.
func (s *session) health(ctx context.Context) error {
	_, err := s.send(ctx, request{method: http.MethodGet, path: "sys/health", repeatable: true, global: true,
		// A standby forwards what it is asked, as a rule.
		query: map[string][]string{"standbyok": {"true"}, "perfstandbyok": {"true"}}})
	return err
}

// send sends a request of the session itself.
func (s *session) send(ctx context.Context, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	return s.wire.send(ctx, r)
}

func printable(s string) bool {
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return false
		}
	}
	return s != ""
}
