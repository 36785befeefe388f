package vault

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogin(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		if err := b.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.use(); err != nil {
			t.Fatal(err)
		}
		if b.asked[0].path != loginPath || b.asked[0].token != "" || b.asked[0].body["role_id"] != "role-id" || b.asked[0].body["secret_id"] != "secret-id" {
			t.Errorf("asked %+v", b.asked[0])
		}
		if b.asked[1].path != keyPath || b.asked[1].token != "token-1" {
			t.Errorf("asked %+v", b.asked[1])
		}
	})
}

// TestRenew: at two thirds of the time, for as long as Vault allows.
func TestRenew(t *testing.T) {
	inBubble(t, func(b *bubble, _ *Config) { b.ttl(6*time.Minute, true) }, func(t *testing.T, b *bubble) {
		b.sleep(time.Hour)
		at := b.times(renewPath)
		if len(at) < 14 || len(at) > 16 {
			t.Fatalf("%d renewals in an hour", len(at))
		}
		last := time.Duration(0)
		for _, d := range at {
			b.between("renewed", d-last, 3*time.Minute+40*time.Second, 4*time.Minute+10*time.Second)
			last = d
		}
		if n := len(b.times(loginPath)); n != 1 {
			t.Errorf("%d logins", n)
		}
	})
}

// TestRenewFails: the token is used until its end, nobody notices, and then there
// is another [F06].
func TestRenewFails(t *testing.T) {
	inBubble(t, func(b *bubble, _ *Config) {
		b.ttl(30*time.Second, true)
		b.says(renewPath, 500, "{}")
	}, func(t *testing.T, b *bubble) {
		for range 600 {
			b.sleep(100 * time.Millisecond)
			if err := b.use(); err != nil {
				t.Fatalf("after %s: %v", time.Since(b.began), err)
			}
		}
		at := b.times(renewPath)
		b.between("first renewal", at[0], 18*time.Second, 21*time.Second)
		b.between("second renewal", at[1]-at[0], 500*time.Millisecond, 750*time.Millisecond)
		if n := len(at); n > 20 {
			t.Errorf("%d renewals in a minute", n)
		}
		logins := b.times(loginPath)
		if len(logins) != 3 {
			t.Errorf("logins at %v", logins)
		}
		b.between("second login", logins[1], 26*time.Second, 28*time.Second)
	})
}

// TestRenewFailsForAWhile: then there is no login.
func TestRenewFailsForAWhile(t *testing.T) {
	inBubble(t, func(b *bubble, _ *Config) { b.says(renewPath, 503, `{"errors":["Vault is sealed"]}`) }, func(t *testing.T, b *bubble) {
		b.sleep(50 * time.Minute)
		b.ttl(time.Hour, true)
		b.sleep(10 * time.Second)
		n := len(b.times(renewPath))
		b.sleep(30 * time.Minute)
		if len(b.times(loginPath)) != 1 || len(b.times(renewPath)) != n {
			t.Errorf("logins at %v, renewals at %v", b.times(loginPath), b.times(renewPath))
		}
	})
}

// TestRenewIsRefused: there is a login at once, while the token still lasts.
func TestRenewIsRefused(t *testing.T) {
	inBubble(t, func(b *bubble, _ *Config) { b.says(renewPath, 400, `{"errors":["lease is not renewable"]}`) }, func(t *testing.T, b *bubble) {
		b.sleep(time.Hour)
		at, logins := b.times(renewPath), b.times(loginPath)
		if len(at) != 1 || len(logins) != 2 || logins[1]-at[0] > time.Second {
			t.Errorf("renewals at %v, logins at %v", at, logins)
		}
	})
}

func TestNotRenewable(t *testing.T) {
	inBubble(t, func(b *bubble, _ *Config) { b.ttl(time.Hour, false) }, func(t *testing.T, b *bubble) {
		b.sleep(time.Hour)
		if logins := b.times(loginPath); len(b.times(renewPath)) != 0 || len(logins) != 2 {
			t.Errorf("logins at %v", logins)
		}
	})
}

// TestMaxTTL: a token that is prolonged by less and less is replaced.
func TestMaxTTL(t *testing.T) {
	inBubble(t, func(b *bubble, _ *Config) {
		b.ttl(6*time.Minute, true)
		began := map[string]time.Time{}
		b.answers(renewPath, func(a asked) (int, string) {
			if began[a.token].IsZero() {
				began[a.token] = time.Now().Add(-4 * time.Minute)
			}
			return 200, auth(a.token, min(6*time.Minute, time.Until(began[a.token].Add(18*time.Minute))), true)
		})
	}, func(t *testing.T, b *bubble) {
		for range 12 * 60 {
			b.sleep(6 * time.Second)
			if err := b.use(); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(b.times(loginPath)); n < 4 || n > 6 {
			t.Errorf("%d logins in 72 minutes of tokens for 18", n)
		}
		if n := len(b.times(renewPath)); n > 30 {
			t.Errorf("%d renewals in 72 minutes", n)
		}
	})
}

// TestTokenWithoutEnd is about root tokens.
func TestTokenWithoutEnd(t *testing.T) {
	inBubble(t, func(b *bubble, c *Config) {
		c.Login = Login{TokenFile: b.file}
		b.says(lookupPath, 200, lookupOf(0, false))
	}, func(t *testing.T, b *bubble) {
		b.sleep(3 * time.Hour)
		if err := b.use(); err != nil {
			t.Error(err)
		}
		if n := len(b.times(renewPath)) + len(b.times(loginPath)); n != 0 {
			t.Errorf("%d renewals and logins", n)
		}
	})
}

// TestRevoked: one login, at once, for all who find out at the same time [F07].
func TestRevoked(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		b.sleep(time.Minute)
		b.tokens(func(token string) bool { return token != "token-1" })
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := b.use(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if logins := b.times(loginPath); len(logins) != 2 || logins[1] > time.Minute+time.Second {
			t.Errorf("logins at %v", logins)
		}
	})
}

// TestRevokedAgainAndAgain: at most one login in five seconds.
func TestRevokedAgainAndAgain(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		b.tokens(func(string) bool { return false })
		for range 600 {
			b.sleep(100 * time.Millisecond)
			wantKind(t, b.use(), Denied)
		}
		logins := b.times(loginPath)
		for i := 2; i < len(logins); i++ {
			if d := logins[i] - logins[i-1]; d < 5*time.Second {
				t.Errorf("logins %s after each other", d)
			}
		}
		if len(logins) < 2 || logins[1] > 2*time.Second {
			t.Errorf("logins at %v", logins)
		}
	})
}

// TestRevokedSoon: tokens that are valid for a moment only cost no more logins
// than one in five seconds either.
func TestRevokedSoon(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		began := map[string]time.Time{}
		b.tokens(func(token string) bool {
			if began[token].IsZero() {
				began[token] = time.Now()
			}
			return time.Since(began[token]) < 300*time.Millisecond
		})
		for range 600 {
			b.sleep(100 * time.Millisecond)
			b.use()
		}
		logins := b.times(loginPath)
		for i := 2; i < len(logins); i++ {
			if d := logins[i] - logins[i-1]; d < 5*time.Second {
				t.Errorf("logins %s after each other", d)
			}
		}
		if len(logins) < 10 {
			t.Errorf("logins at %v", logins)
		}
	})
}

// TestDeniedPath: a policy that denies is not a token that is invalid; it costs
// few looks and no login [F09].
func TestDeniedPath(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		b.says(keyPath, 403, denied)
		for range 1000 {
			b.sleep(10 * time.Millisecond)
			wantKind(t, b.use(), Denied)
		}
		if n := len(b.times(loginPath)); n != 1 {
			t.Errorf("%d logins", n)
		}
		if n := len(b.times(lookupPath)); n > 12 {
			t.Errorf("%d looks in 10 seconds", n)
		}
		if err := b.Err(); err != nil {
			t.Errorf("vault can be used, but: %v", err)
		}
	})
}

// TestBlind is about a token that may not look at itself: a path that is denied
// costs one login, not one per request.
func TestBlind(t *testing.T) {
	inBubble(t, func(b *bubble, _ *Config) { b.says(lookupPath, 403, denied) }, func(t *testing.T, b *bubble) {
		b.says(keyPath, 403, denied)
		for range 500 {
			b.sleep(100 * time.Millisecond)
			wantKind(t, b.use(), Denied)
		}
		if n := len(b.times(loginPath)); n != 2 {
			t.Errorf("%d logins in 50 seconds", n)
		}
		if n := len(b.times(lookupPath)); n > 60 {
			t.Errorf("%d looks in 50 seconds", n)
		}
		b.answers(keyPath, nil)
		b.sleep(time.Minute)
		if err := b.use(); err != nil {
			t.Fatal(err)
		}
		b.tokens(func(token string) bool { return token == "token-3" })
		if err := b.use(); err != nil {
			t.Errorf("revoked, and no other login: %v", err)
		}
	})
}

// TestLoginRefused: it is not tried again and again, and at once with another
// credential [F08].
func TestLoginRefused(t *testing.T) {
	inBubble(t, func(b *bubble, _ *Config) {
		b.answers(loginPath, func(a asked) (int, string) {
			if a.body["secret_id"] != "secret-id-2" {
				return 400, `{"errors":["invalid secret_id \"secret-id\""]}`
			}
			return 200, auth("token-1", time.Hour, true)
		})
	}, func(t *testing.T, b *bubble) {
		wantKind(t, b.use(), Denied)
		if err := b.Err(); err == nil || !strings.Contains(err.Error(), b.file) {
			t.Errorf("the error does not say what to do: %v", err)
		}
		b.sleep(time.Minute)
		logins := b.times(loginPath)
		if len(logins) < 4 || len(logins) > 8 {
			t.Errorf("logins at %v", logins)
		}
		for i := 1; i < len(logins); i++ {
			b.between("login", logins[i]-logins[i-1], 5*time.Second, 19*time.Second)
		}
		before := len(logins)
		writeFile(t, b.file, "secret-id-2\n")
		b.sleep(filesEvery + 100*time.Millisecond)
		if err := b.use(); err != nil {
			t.Error(err)
		}
		if n := len(b.times(loginPath)); n > before+1 {
			t.Errorf("%d logins for one new credential", n-before)
		}
	})
}

// TestLoginFails: what Vault says of it may repeat the secret id, and is not
// repeated.
func TestLoginFails(t *testing.T) {
	inBubble(t, func(b *bubble, _ *Config) {
		b.says(loginPath, 500, `{"errors":["cannot look up \"secret-id\""]}`)
	}, func(t *testing.T, b *bubble) {
		err := b.use()
		wantKind(t, err, Failed)
		if strings.Contains(err.Error(), "secret-id") {
			t.Errorf("the error has the secret id: %v", err)
		}
	})
}

// TestDownAtStart: nobody waits for Vault, and it is used as soon as it is there.
func TestDownAtStart(t *testing.T) {
	for name, tt := range map[string]struct {
		breaks, mends func(b *bubble)
		kind          Kind
	}{
		"refused": {
			func(b *bubble) { b.pipes.refused = true },
			func(b *bubble) { b.pipes.mu.Lock(); b.pipes.refused = false; b.pipes.mu.Unlock() }, Unreachable,
		},
		"sealed": {
			func(b *bubble) {
				b.says(loginPath, 503, `{"errors":["Vault is sealed"]}`)
				b.says(healthPath, 503, `{"initialized":true,"sealed":true}`)
			},
			func(b *bubble) { b.ttl(time.Hour, true); b.says(healthPath, 200, "{}") }, Sealed,
		},
		"uninitialised": {
			func(b *bubble) {
				b.says(loginPath, 503, `{"errors":["Vault is sealed"]}`)
				b.says(healthPath, 501, `{"initialized":false,"sealed":true}`)
			},
			func(b *bubble) { b.ttl(time.Hour, true); b.says(healthPath, 200, "{}") }, Uninitialised,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bubble, _ *Config) { tt.breaks(b) }, func(t *testing.T, b *bubble) {
				b.sleep(time.Minute)
				wantKind(t, b.use(), tt.kind)
				wantKind(t, b.Err(), tt.kind)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err := b.Ready(ctx)
				wantKind(t, err, tt.kind)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("not that of the context: %v", err)
				}
				tt.mends(b)
				began := time.Now()
				if err := b.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
				b.between("ready", time.Since(began), 0, time.Second)
				if err := b.use(); err != nil {
					t.Error(err)
				}
				if n := len(b.times(loginPath)); n > 14 {
					t.Errorf("%d logins in a minute", n)
				}
			})
		})
	}
}

// TestDown: that Vault cannot be used is noticed from calls, by one who asks for
// all, and its return within a second [F01].
func TestDown(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		b.sleep(time.Second)
		if err := b.use(); err != nil {
			t.Fatal(err)
		}
		sealed := func(asked) (int, string) { return 503, `{"errors":["Vault is sealed"]}` }
		for _, path := range []string{keyPath, lookupPath, healthPath, renewPath, loginPath} {
			b.answers(path, sealed)
		}
		wantKind(t, b.use(), Sealed)
		synctest.Wait()
		wantKind(t, b.Err(), Sealed)
		for range 100 {
			b.sleep(100 * time.Millisecond)
			wantKind(t, b.use(), Sealed)
		}
		if n := len(b.times(lookupPath)); n > 26 {
			t.Errorf("asked %d times in 10 seconds whether it is back", n)
		}
		for _, path := range []string{keyPath, lookupPath, healthPath} {
			b.answers(path, nil)
		}
		began := time.Now()
		if err := b.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.between("ready", time.Since(began), 0, time.Second)
		if n := len(b.times(loginPath)); n != 1 {
			t.Errorf("%d logins", n)
		}
	})
}

// TestDownWithoutCalls: noticed too, and not at the price of asking while calls
// show that all is well.
func TestDownWithoutCalls(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		for range 300 {
			b.sleep(100 * time.Millisecond)
			if err := b.use(); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(b.times(healthPath)) + len(b.times(lookupPath)); n > 0 {
			t.Errorf("asked %d times in 30 seconds of calls", n)
		}
		b.says(healthPath, 503, `{"sealed":true}`)
		b.says(lookupPath, 503, `{"errors":["Vault is sealed"]}`)
		b.sleep(13 * time.Second)
		wantKind(t, b.Err(), Sealed)
	})
}

// TestHang: all is bounded by the time limit of a call.
func TestHang(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		for _, path := range []string{keyPath, lookupPath, healthPath} {
			b.says(path, 0, "")
		}
		began := time.Now()
		err := b.use()
		wantKind(t, err, Unreachable)
		b.between("failed", time.Since(began), defaultTimeout, defaultTimeout)
		b.sleep(defaultTimeout + time.Second)
		wantKind(t, b.Err(), Unreachable)

		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err = b.Key("transit", "sts").Info(ctx)
		wantKind(t, err, 0)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller's time ended, but: %v", err)
		}
	})
}

func TestTokenFile(t *testing.T) {
	inBubble(t, func(b *bubble, c *Config) {
		writeFile(t, b.file, "token-a\n")
		c.Login = Login{TokenFile: b.file}
		b.tokens(func(token string) bool { return token == "token-a" })
	}, func(t *testing.T, b *bubble) {
		if err := b.use(); err != nil {
			t.Fatal(err)
		}
		b.sleep(2 * time.Hour)
		if n := len(b.times(renewPath)); n < 2 || n > 4 {
			t.Errorf("%d renewals in 2 hours", n)
		}
		b.tokens(func(token string) bool { return token == "token-b" })
		wantKind(t, b.use(), Denied)
		wantKind(t, b.Err(), Denied)
		if err := b.Err(); !strings.Contains(err.Error(), b.file) {
			t.Errorf("the error does not name the file: %v", err)
		}
		writeFile(t, b.file, "token-b\n")
		b.sleep(filesEvery + 100*time.Millisecond)
		if err := b.use(); err != nil {
			t.Error(err)
		}
		// What replaces a good token and is not good itself is not used.
		writeFile(t, b.file, "token-c\n")
		b.sleep(30 * time.Second)
		if err := b.use(); err != nil {
			t.Error(err)
		}
	})
}

// TestTokenFileAges: a token that Vault does not prolong is spoken of at half of
// its life, and once [F08].
func TestTokenFileAges(t *testing.T) {
	inBubble(t, func(b *bubble, c *Config) {
		c.Login = Login{TokenFile: b.file}
		b.answers(lookupPath, func(asked) (int, string) { return 200, lookupOf(time.Hour-time.Since(b.began), false) })
	}, func(t *testing.T, b *bubble) {
		const words = "half of the life of the token"
		b.sleep(29 * time.Minute)
		if n := strings.Count(b.log.String(), words); n != 0 {
			t.Errorf("warned %d times before half", n)
		}
		b.sleep(20 * time.Minute)
		if n := strings.Count(b.log.String(), words); n != 1 {
			t.Errorf("warned %d times after half", n)
		}
		b.says(lookupPath, 403, denied)
		b.says(keyPath, 403, denied)
		b.sleep(20 * time.Minute)
		wantKind(t, b.use(), Denied)
		wantKind(t, b.Err(), Denied)
	})
}

// TestThrottledLogin: not before Vault says so [F12].
func TestThrottledLogin(t *testing.T) {
	inBubble(t, func(b *bubble, _ *Config) {
		b.says(loginPath, 429, `{"errors":["rate limit quota exceeded"]}`)
	}, func(t *testing.T, b *bubble) {
		wantKind(t, b.use(), Throttled)
		b.sleep(time.Minute)
		if n := len(b.times(loginPath)); n > 8 {
			t.Errorf("%d logins in a minute", n)
		}
	})
}

func TestClose(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		b.says(keyPath, 0, "")
		ended := make(chan error)
		go func() { ended <- b.use() }()
		synctest.Wait()
		began := time.Now()
		b.Close()
		for _, err := range []error{<-ended, b.use(), b.Err(), b.Ready(t.Context())} {
			wantKind(t, err, Unreachable)
		}
		b.between("closed", time.Since(began), 0, 0)
	})
}
