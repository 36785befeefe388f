package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/workload-sts/sts/test/check"
)

// loadClient asks servers, one call after the other, until the history ends.
type loadClient struct {
	h       *history
	number  int
	rnd     *rand.Rand
	written int    // the last value that was written to the client's resource
	own     string // a token that nobody revokes, if it has one
}

func (c *loadClient) run() {
	for {
		select {
		case <-c.h.stop:
			return
		case <-time.After(time.Duration(c.rnd.IntN(20)) * time.Millisecond):
		}
		s := c.h.sites[c.rnd.IntN(len(c.h.sites))]
		var call check.Call
		switch n := c.rnd.IntN(100); {
		case n < 20:
			call = c.issue(s)
		case n < 25:
			call = c.forbidden(s)
		case n < 45:
			call = c.use(s)
		case n < 55:
			call = c.exchange(s)
		case n < 80:
			call = c.introspect(s)
		case n < 87:
			call = c.revoke(s)
		case n < 92:
			call = c.write(s)
		default:
			call = c.read(s)
		}
		if call.Kind == "" {
			continue // there is no token yet
		}
		call.Client = c.number
		c.h.log.Add(call)
		if call.Status == 0 {
			time.Sleep(20 * time.Millisecond) // it is being started again
		}
	}
}

func (c *loadClient) secret(r *http.Request) { r.SetBasicAuth("app", c.h.secret) }

func credentialsForm() url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "audience": {"demo"}, "scope": {"demo.read"}}
}

func (c *loadClient) issue(s *site) check.Call {
	call, body := c.ask(s, "/oauth2/token", credentialsForm(), c.secret)
	call.Kind = check.Issue
	c.took(&call, body)
	return call
}

// forbidden asks for what no rule allows.
func (c *loadClient) forbidden(s *site) check.Call {
	form := credentialsForm()
	if c.rnd.IntN(2) == 0 {
		form.Set("audience", "closed")
	} else {
		form.Set("scope", "demo.read demo.write")
	}
	call, body := c.ask(s, "/oauth2/token", form, c.secret)
	call.Kind, call.Forbidden = check.Issue, true
	call.Token, _ = body["access_token"].(string)
	return call
}

// took keeps a token that was issued.
func (c *loadClient) took(call *check.Call, body map[string]any) {
	if call.Answer != check.Yes {
		return
	}
	call.Token, _ = body["access_token"].(string)
	jti, err := check.ID(call.Token)
	if err != nil {
		call.Problem = fmt.Sprintf("the token that it has cannot be read: %v", err)
		return
	}
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if len(c.h.secrets) < 500 {
		c.h.secrets = append(c.h.secrets, canary("a token", call.Token))
	}
	// Those of the other client are not its to ask about, and those of an exchange go
	// with what they come from.
	if call.Kind == check.Issue {
		c.h.tokens = append(c.h.tokens, issued{jti, call.Token, time.Now()})
	}
	if len(c.h.tokens) > 60 {
		c.h.tokens = c.h.tokens[1:]
	}
}

// any returns a token that was issued lately.
func (c *loadClient) any() (issued, bool) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if len(c.h.tokens) == 0 {
		return issued{}, false
	}
	one := c.h.tokens[c.rnd.IntN(len(c.h.tokens))]
	return one, time.Since(one.at) < tokensUsedFor
}

// use authenticates by a new assertion, or by one that somebody uses or has used.
func (c *loadClient) use(s *site) check.Call {
	c.h.mu.Lock()
	var a assertion
	if n := len(c.h.assertions); n > 10 && c.rnd.IntN(2) == 0 {
		a = c.h.assertions[c.rnd.IntN(n)]
	} else {
		text := c.h.signer.assertion(c.h.t, c.h.sites[0].node, func(claims map[string]any) { a.jti = claims["jti"].(string) })
		a.text = text
		c.h.assertions = append(c.h.assertions, a)
		if len(c.h.assertions) > 40 {
			c.h.assertions = c.h.assertions[1:]
		}
		if len(c.h.secrets) < 500 {
			c.h.secrets = append(c.h.secrets, canary("an assertion", text))
		}
	}
	c.h.mu.Unlock()
	call, body := c.ask(s, "/oauth2/token", assertionForm(a.text, "jwt-bearer"), nil)
	call.Kind, call.Key = check.Use, a.jti
	if call.Answer == check.No && !strings.Contains(fmt.Sprint(body["error_description"]), "was used before") {
		call.Answer = check.Unknown
	}
	c.took(&call, body)
	return call
}

func (c *loadClient) exchange(s *site) check.Call {
	token, ok := c.any()
	if !ok {
		return check.Call{}
	}
	call, body := c.ask(s, "/oauth2/token", url.Values{
		"grant_type": {grantExchange}, "subject_token": {token.token}, "subject_token_type": {typeAccessToken}, "audience": {"demo"}, "scope": {"demo.read"},
	}, c.secret)
	call.Kind, call.Key = check.Exchange, token.jti
	if call.Answer == check.No && !strings.Contains(fmt.Sprint(body["error_description"]), "has been revoked") {
		call.Answer, call.Problem = check.Unknown, fmt.Sprintf("a good token is refused: %v", body)
	}
	c.took(&call, body)
	return call
}

func (c *loadClient) introspect(s *site) check.Call {
	token, ok := c.any()
	if !ok {
		return check.Call{}
	}
	call, body := c.ask(s, "/oauth2/introspect", url.Values{"token": {token.token}}, c.secret)
	call.Kind, call.Key = check.Introspect, token.jti
	switch active, known := body["active"].(bool); {
	case call.Answer == check.No || call.Answer == check.Yes && !known:
		call.Problem = fmt.Sprintf("it says %v", body)
	case call.Answer == check.Yes && !active:
		call.Answer = check.No
	}
	return call
}

func (c *loadClient) revoke(s *site) check.Call {
	token, ok := c.any()
	if !ok {
		return check.Call{}
	}
	call, body := c.ask(s, "/oauth2/revoke", url.Values{"token": {token.token}}, c.secret)
	call.Kind, call.Key = check.Revoke, token.jti
	if call.Answer == check.No && !strings.Contains(fmt.Sprint(body["error_description"]), "has been revoked") {
		call.Problem = fmt.Sprintf("it says %v", body)
	}
	return call
}

// write gives the client's own resource another value.
func (c *loadClient) write(s *site) check.Call {
	c.written++
	call, body := c.send(s, http.MethodPost, "/v1/resources:apply", strings.NewReader(fmt.Sprintf(
		`{"resources":[{"audience":{"name":"r-%d","scopes":["v.%d"]}}]}`, c.number, c.written)), func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+s.admin)
		r.Header.Set("Content-Type", "application/json")
	})
	call.Kind, call.Key, call.Value = check.Write, fmt.Sprintf("r-%d", c.number), c.written
	if call.Status == http.StatusConflict {
		call.Answer = check.No // others came in between
	} else if call.Answer == check.No {
		call.Problem = fmt.Sprintf("it says %v", body)
	}
	return call
}

// read looks at the resource of some client.
func (c *loadClient) read(s *site) check.Call {
	name := fmt.Sprintf("r-%d", c.rnd.IntN(4))
	call, body := c.send(s, http.MethodGet, "/v1/resources/Audience/"+name, nil, func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+s.admin)
	})
	call.Kind, call.Key = check.Read, name
	if call.Status == http.StatusNotFound {
		call.Answer = check.Yes // with the value 0
	} else if call.Answer == check.Yes {
		text, _ := json.Marshal(body)
		_, after, found := strings.Cut(string(text), `"v.`)
		if _, err := fmt.Sscan(strings.SplitN(after, `"`, 2)[0], &call.Value); err != nil || !found {
			call.Problem = fmt.Sprintf("it says %s", text)
		}
	}
	return call
}

// ask posts a form.
func (c *loadClient) ask(s *site, path string, form url.Values, edit func(*http.Request)) (check.Call, map[string]any) {
	return c.send(s, http.MethodPost, path, strings.NewReader(form.Encode()), func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if edit != nil {
			edit(r)
		}
	})
}

// send sends a request, and says what came of it.
func (c *loadClient) send(s *site, method, path string, body io.Reader, edit func(*http.Request)) (call check.Call, answer map[string]any) {
	call = check.Call{Node: s.number, Begin: time.Now()}
	defer func() { call.End = time.Now() }()
	req, err := http.NewRequestWithContext(c.h.t.Context(), method, s.url+path, body)
	if err != nil {
		call.Problem = err.Error()
		return call, nil
	}
	edit(req)
	res, err := s.client.Do(req)
	if err != nil {
		call.Problem = err.Error()
		return call, nil
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		call.Problem = "half a body: " + err.Error() // as of a server that was killed
		return call, nil
	}
	call.Status, call.RetryAfter = res.StatusCode, res.Header.Get("Retry-After") != ""
	if err := json.Unmarshal(raw, &answer); err != nil && len(raw) > 0 {
		call.Problem = fmt.Sprintf("its body %q is not JSON: %v", raw, err)
		return call, nil
	}
	switch {
	case call.Status == http.StatusOK:
		call.Answer = check.Yes
	case call.Status >= 500 || call.Status == http.StatusTooManyRequests:
		call.Answer = check.Unknown
	default:
		call.Answer = check.No
	}
	return call, answer
}
