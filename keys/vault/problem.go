package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Kind says what is wrong with Vault, for those who decide what to do about it.
type Kind int

// The kinds of trouble. Those of the first line pass by themselves and say that
// Vault cannot be used at all at the moment; the rest concerns one request.
const (
	Unreachable   Kind = iota + 1 // no connection, or no whole answer in time
	Sealed                        // somebody has to unseal it
	Standby                       // the node does not serve, and does not forward
	Uninitialised                 // it has no storage yet
	Failed                        // 5xx: it tried and could not

	Throttled // 429: a rate limit; RetryAfter says how long
	Denied    // 403: the token may not do this, or is not valid any more
	NoKey     // there is no such key, or no such version of it
	Refused   // 4xx: the request itself is wrong
	Garbage   // the answer is not one of Vault's
)

var kindNames = [...]string{"", "unreachable", "sealed", "standby", "uninitialised", "failed", "throttled", "denied", "no key", "refused", "garbage"}

func (k Kind) String() string {
	if k <= 0 || int(k) >= len(kindNames) {
		return "unknown"
	}
	return kindNames[k]
}

// Down reports whether a kind of trouble says that Vault cannot be used at all
// at the moment, whatever is asked.
func (k Kind) Down() bool { return k >= Unreachable && k <= Failed }

// Error is why a call to Vault did not succeed. Its text has no token, no secret
// and nothing that was sent.
type Error struct {
	Kind       Kind
	Status     int           // of the HTTP answer; 0: there was none
	RetryAfter time.Duration // how long Vault wants to be left alone; 0: it does not say
	Err        error         // never nil
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// newError makes an Error of a sentence.
func newError(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// status are the members of Vault's answers that tell what is wrong: those of an
// error, and those of sys/health.
type status struct {
	Errors      []string `json:"errors"`
	Initialized *bool    `json:"initialized"`
	Sealed      bool     `json:"sealed"`
	Standby     bool     `json:"standby"`
}

// problem reads an answer that is not the one hoped for. quiet withholds what
// Vault says in it: the answers of some login methods repeat the credential.
func problem(code int, header http.Header, body []byte, quiet bool) *Error {
	var said status
	foreign := json.Unmarshal(body, &said) != nil
	text := sentence(said.Errors)
	e := &Error{Status: code, Kind: kindOf(code, said, text, foreign)}
	if quiet {
		text = ""
	}
	if text != "" {
		text = ": " + text
	}
	switch e.Kind {
	case Sealed:
		e.Err = fmt.Errorf("vault is sealed: unseal it")
	case Standby:
		e.Err = fmt.Errorf("the node of vault is a standby that does not forward requests (status %d): name the active node's address too", code)
	case Uninitialised:
		e.Err = fmt.Errorf("vault is not initialised: run `vault operator init`, then unseal it")
	case Denied:
		e.Err = fmt.Errorf("vault denies it%s", text)
	case Throttled:
		e.RetryAfter = retryAfter(header.Get("Retry-After"), time.Now())
		e.Err = fmt.Errorf("vault limits the rate of requests%s", text)
	case Unreachable:
		e.Err = fmt.Errorf("what stands before vault answers with status %d", code)
	case Failed:
		e.Err = fmt.Errorf("vault failed with status %d%s", code, text)
	case NoKey:
		e.Err = fmt.Errorf("vault has no such key (status %d%s)", code, text)
	case Garbage:
		e.Err = fmt.Errorf("the answer with status %d is not one of vault's", code)
	default:
		e.Err = fmt.Errorf("vault refuses the request with status %d%s", code, text)
	}
	return e
}

// kindOf tells what is wrong from a status and what Vault says with it. Vault has
// no codes finer than HTTP's, so some of it is told from the words.
func kindOf(code int, said status, text string, foreign bool) Kind {
	switch {
	case code == http.StatusTemporaryRedirect || code == 472 || code == 473,
		code == http.StatusTooManyRequests && said.Standby,
		code >= 500 && (strings.Contains(text, "standby") || strings.Contains(text, "not active") || strings.Contains(text, "no active")):
		return Standby
	case code == http.StatusNotImplemented, said.Initialized != nil && !*said.Initialized:
		return Uninitialised
	case code == http.StatusServiceUnavailable && (said.Sealed || strings.Contains(strings.ToLower(text), "sealed")):
		return Sealed
	case code == http.StatusTooManyRequests:
		return Throttled
	case code == http.StatusForbidden:
		return Denied
	case code == http.StatusNotFound, code == http.StatusBadRequest && aboutKey(text):
		return NoKey
	case strings.Contains(text, "invalid secret id"):
		return Refused // with 500, by AppRole of Vault 1.13
	case foreign && (code == http.StatusBadGateway || code == http.StatusServiceUnavailable || code == http.StatusGatewayTimeout):
		return Unreachable
	case code >= 500:
		return Failed
	case code >= 400 && !foreign:
		return Refused
	default:
		return Garbage
	}
}

// aboutKey reports whether what Vault says is that the key, or the version of
// it, cannot be used, in the words of Vault 1.0 to 1.20 and of OpenBao.
func aboutKey(text string) bool {
	for _, words := range [...]string{
		"key not found", "no existing key", "soft deleted", "soft-deleted",
		"version for signing is", "no such key version", "version is disallowed by policy", "version is too new",
	} {
		if strings.Contains(text, words) {
			return true
		}
	}
	return false
}

const maxSentence = 200

// sentence makes one line of what Vault says: short, and without characters that
// would leave the line of a log.
func sentence(said []string) string {
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, strings.Join(said, "; "))
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxSentence {
		text = text[:maxSentence] + "..."
	}
	return text
}

const maxRetryAfter = time.Minute

// retryAfter reads how long to wait: seconds, or a date [RFC 9110 §10.2.3].
func retryAfter(value string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.Atoi(value); err == nil && n >= 0 && n <= 3600 {
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// kindOfError is the kind of an Error, and 0 for any other.
func kindOfError(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return 0
}

// retryAfterOf is how long Vault wants to be left alone.
func retryAfterOf(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.RetryAfter
	}
	return 0
}
