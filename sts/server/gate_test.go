package server

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/workload-sts/sts/sts"
)

// TestOverload offers three times the work that fits, at a steady rate that does
// not wait for answers: what the server can do it goes on doing, and the rest is
// told so at once [F43]. What limits it here is the signer, as it is with Vault.
func TestOverload(t *testing.T) {
	const slots, signing = 2, 50 * time.Millisecond // 40 tokens a second
	f := newFixture(t, func(c *Config) { c.MaxRequests = 5 * slots })
	signer := make(chan struct{}, slots)
	f.keys.before = func() {
		signer <- struct{}{}
		time.Sleep(signing)
		<-signer
	}
	const knee = float64(slots) / 0.050
	const during = 1500 * time.Millisecond
	var good atomic.Int64
	var mu sync.Mutex
	var refused []time.Duration // how long it took to say so
	var asking sync.WaitGroup
	begin := time.Now()
	for n := 0; time.Since(begin) < during; n++ {
		time.Sleep(time.Until(begin.Add(time.Duration(float64(n) / (3 * knee) * float64(time.Second)))))
		asking.Go(func() {
			sent := time.Now()
			got := f.grpc(t, f.good())
			switch {
			case got.token != "":
				good.Add(1)
			case got.code == sts.Unavailable && got.grpc == codes.ResourceExhausted:
				mu.Lock()
				refused = append(refused, time.Since(sent))
				mu.Unlock()
			default:
				t.Errorf("%+v", got)
			}
		})
	}
	// Others are served meanwhile: they have shares of their own.
	if got := f.adminRequest(t, http.MethodGet, "/v1/keys", ""); got.http != 200 {
		t.Errorf("an administrator in the overload: %d %s", got.http, got.raw)
	}
	if got := f.do(t, f.request(t, http.MethodGet, "/.well-known/jwks.json", nil)); got.http != 200 {
		t.Errorf("the key set in the overload: %d", got.http)
	}
	asking.Wait()
	took := time.Since(begin).Seconds()
	slices.Sort(refused)
	if len(refused) == 0 {
		t.Fatal("none refused")
	}
	middle := refused[len(refused)/2]
	t.Logf("%d good in %.2f s, of %.0f that fit; %d refused, half of them within %s", good.Load(), took, knee*took, len(refused), middle)
	if float64(good.Load()) < 0.5*knee*took {
		t.Errorf("%d good in %.2f s, of %.0f that fit", good.Load(), took, knee*took)
	}
	if middle > overloadAnswer {
		t.Errorf("half of %d were refused within %s, not within %s", len(refused), middle, overloadAnswer)
	}
	// It recovers with the load.
	if got := f.grpc(t, f.good()); got.token == "" {
		t.Errorf("after the overload: %+v", got)
	}
	if !strings.Contains(f.scrape(t), `value:"requests"`) {
		t.Error("the refusals are not counted by limit")
	}
	for method, a := range accessTo {
		if _, known := f.server.face.chain.gates[a.share]; !known && a.share != noShare {
			t.Errorf("%s takes from a share that is not there", method)
		}
	}
}

// overloadAnswer is how fast who is refused must know. The catalogue says 20 ms for
// all, which a busy machine does not keep; if refusals waited for what is worked on,
// half of them would take longer than that.
const overloadAnswer = 20 * time.Millisecond * raceSlack

// TestLimitOnTheWire holds what a limit answers on each face.
func TestLimitOnTheWire(t *testing.T) {
	f := newFixture(t)
	for _, call := range []func(*testing.T, ask) answer{
		func(t *testing.T, a ask) answer { return f.form(t, a) }, func(t *testing.T, a ask) answer { return f.json(t, a) }, func(t *testing.T, a ask) answer { return f.grpc(t, a) },
	} {
		r, _, err := f.service.Resource(sts.Ref{Kind: sts.KindClient, Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		c := *r.Client
		c.Rate = sts.Rate{Count: 1, Period: time.Hour, Burst: c.Rate.Burst + 1} // a change begins anew
		if _, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Client: &c}}}); err != nil {
			t.Fatal(err)
		}
		for range c.Rate.Burst {
			if got := call(t, f.good()); got.token == "" {
				t.Fatal(got.raw)
			}
		}
		b := f.before()
		got := call(t, f.good())
		f.assertRefused(t, b, got, sts.TooManyRequests)
		if got.http != 0 && (got.http != 429 || got.header.Get("Retry-After") == "") || got.http == 0 && (got.grpc != codes.ResourceExhausted || !strings.Contains(got.raw, "RetryInfo")) {
			t.Errorf("%+v", got)
		}
	}
}
