package vaulttest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// stubToken is a token that a login handed out.
type stubToken struct {
	issued  time.Time
	expires time.Time
	path    string // of the login
	cert    bool   // of a login by certificate, which a renewal needs too
}

// answer is what the stub says: a body, or errors.
type answer struct {
	status int
	body   map[string]any
	errors []string
}

func (a *answer) encode() []byte {
	body := a.body
	if body == nil {
		body = map[string]any{"errors": a.errors}
	}
	data, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("vaulttest: an edited answer is not JSON: %v", err))
	}
	return append(data, '\n')
}

// refuse is an answer with errors.
func refuse(status int, errors ...string) answer {
	if errors == nil {
		errors = []string{} // not null
	}
	return answer{status: status, errors: errors}
}

// envelope is an answer in what Vault puts around all of them.
func envelope(data, auth map[string]any) answer {
	body := map[string]any{
		"request_id": "7a3f6a53-4a42-4dcb-a3ab-000000000000", "lease_id": "", "renewable": false,
		"lease_duration": 0, "data": nil, "wrap_info": nil, "warnings": nil, "auth": nil,
	}
	if data != nil {
		body["data"] = data
	}
	if auth != nil {
		body["auth"] = auth
	}
	return answer{status: http.StatusOK, body: body}
}

// RevokeTokens makes all tokens of logins invalid.
func (s *Stub) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// answer makes the right answer to a call.
func (s *Stub) answer(call Request, r *http.Request, fault Fault) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch call.Class {
	case Health:
		return answer{status: http.StatusOK, body: map[string]any{
			"initialized": true, "sealed": false, "standby": false, "performance_standby": false, "version": "1.13.1",
		}}
	case Login:
		if call.Method != http.MethodPost && call.Method != http.MethodPut {
			return refuse(http.StatusMethodNotAllowed, "1 error occurred:\n\t* unsupported operation\n\n")
		}
		return s.login(call, r)
	}
	name := r.Header.Get("X-Vault-Token")
	token := s.tokens[name]
	if name != s.RootToken && (token == nil || !time.Now().Before(token.expires)) {
		return refuse(http.StatusForbidden, "permission denied")
	}
	switch call.Class {
	case Lookup:
		return s.lookup(name, token)
	case Renew:
		return s.renew(name, token, call)
	case Read:
		return s.read(call.Path)
	case Sign:
		return s.sign(call, fault.sign)
	case Encrypt, Decrypt:
		return s.crypt(call)
	}
	return refuse(http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", call.Path))
}

// login takes the method from what is presented, so that it may be mounted
// anywhere.
func (s *Stub) login(call Request, r *http.Request) answer {
	role, jwt := field(call.Body, "role"), field(call.Body, "jwt")
	switch {
	case field(call.Body, "role_id") != "":
		switch {
		case field(call.Body, "role_id") != s.config.RoleID:
			return refuse(http.StatusBadRequest, "invalid role ID")
		case field(call.Body, "secret_id") == "":
			return refuse(http.StatusBadRequest, "missing secret_id")
		case field(call.Body, "secret_id") != s.config.SecretID:
			return refuse(http.StatusInternalServerError, "invalid secret id") // as 1.13.1 does; others say 400
		}
	case jwt != "":
		switch {
		case role != s.config.Role:
			return refuse(http.StatusBadRequest, fmt.Sprintf("invalid role name %q", role))
		case s.config.JWT != "" && jwt != s.config.JWT:
			return refuse(http.StatusForbidden, "permission denied")
		}
	case r.TLS == nil:
		return refuse(http.StatusBadRequest, "tls connection required")
	case len(r.TLS.PeerCertificates) == 0:
		return refuse(http.StatusBadRequest, "client certificate must be supplied")
	case s.config.Clients == nil || r.TLS.PeerCertificates[0].CheckSignatureFrom(s.config.Clients.Certificate) != nil:
		return refuse(http.StatusBadRequest, "invalid certificate or no client certificate supplied")
	}
	now := time.Now()
	s.logins++
	name := fmt.Sprintf("hvs.stub-%d", s.logins)
	s.tokens[name] = &stubToken{issued: now, expires: now.Add(s.config.TokenTTL), path: call.Path, cert: jwt == "" && field(call.Body, "role_id") == ""}
	return envelope(nil, s.auth(name, s.config.TokenTTL))
}

func (s *Stub) auth(token string, ttl time.Duration) map[string]any {
	return map[string]any{
		"client_token": token, "accessor": "accessor-of-" + token, "policies": []string{"default"},
		"token_policies": []string{"default"}, "metadata": map[string]string{}, "lease_duration": seconds(ttl),
		"renewable": !s.config.NotRenewable, "entity_id": "", "token_type": "service", "orphan": true,
		"mfa_requirement": nil, "num_uses": 0,
	}
}

func (s *Stub) lookup(name string, token *stubToken) answer {
	data := map[string]any{
		"accessor": "accessor-of-" + name, "display_name": "stub", "id": name, "num_uses": 0, "orphan": true,
		"policies": []string{"root"}, "type": "service", "ttl": 0, "creation_ttl": 0, "expire_time": nil, "path": "auth/token/root",
	}
	if token != nil {
		data["policies"], data["path"] = []string{"default"}, token.path
		data["ttl"], data["creation_ttl"] = seconds(time.Until(token.expires)), seconds(s.config.TokenTTL)
		data["issue_time"], data["expire_time"] = token.issued.Format(time.RFC3339Nano), token.expires.Format(time.RFC3339Nano)
		data["renewable"] = !s.config.NotRenewable
	}
	return envelope(data, nil)
}

func (s *Stub) renew(name string, token *stubToken, call Request) answer {
	switch {
	case token == nil:
		return refuse(http.StatusBadRequest, "invalid lease ID") // root
	case s.config.NotRenewable:
		return refuse(http.StatusBadRequest, "lease is not renewable")
	case token.cert && call.Client == "":
		return refuse(http.StatusBadRequest, "client certificate must be supplied")
	}
	ttl := s.config.TokenTTL
	if asked, err := increment(call.Body["increment"]); err != nil {
		return refuse(http.StatusBadRequest, err.Error())
	} else if asked > 0 {
		ttl = asked
	}
	var warnings []string
	if most := time.Until(token.issued.Add(s.config.TokenMaxTTL)); ttl > most {
		warnings = []string{fmt.Sprintf("TTL of %q exceeded the effective max_ttl of %q; TTL value is capped accordingly", ttl, most.Truncate(time.Second))}
		ttl = most
	}
	token.expires = time.Now().Add(ttl)
	a := envelope(nil, s.auth(name, ttl))
	if warnings != nil {
		a.body["warnings"] = warnings
	}
	return a
}

// increment reads seconds or a duration.
func increment(v any) (time.Duration, error) {
	switch v := v.(type) {
	case nil:
		return 0, nil
	case float64:
		return time.Duration(v) * time.Second, nil
	case string:
		return time.ParseDuration(v)
	}
	return 0, fmt.Errorf("increment %v is not a duration", v)
}

func field(body map[string]any, name string) string {
	s, _ := body[name].(string)
	return s
}

func seconds(d time.Duration) int { return int(max(d, 0) / time.Second) }
