package keys

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/workload-sts/sts/jose"
)

// SourceStatus is what is known of the keys of a trusted issuer. Times that are
// not known are zero.
type SourceStatus struct {
	Issuer  string // its name
	Kind    Kind
	Keys    []SourceKey
	Fetched time.Time // when the keys were fetched, or a token was reviewed, last
	Asked   time.Time // when that was tried last
	Refresh time.Time // when the keys are asked for again, if a token needs them
	Stale   time.Time // when the keys are not used any more, if they cannot be had until then
	Err     error     // of the last attempt

	Fetches, Failures uint64 // attempts since the start
}

// SourceKey is a key of an issuer.
type SourceKey struct {
	ID        string // empty: it has none
	Algorithm string // or, if the issuer does not say, the type of the key
}

// Status returns what is known about each issuer, by name. It asks nobody; files
// whose turn it is are read, and what comes of that is in the next answer.
func (r *Remote) Status() []SourceStatus {
	r.mu.RLock()
	sources := maps.Clone(r.sources)
	r.mu.RUnlock()
	out := make([]SourceStatus, 0, len(sources))
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		sources[name].watch(r)
		out = append(out, sources[name].statusWithKeys(r.c.Now()))
	}
	return out
}

// StatusOf returns what is known about one issuer, as Status does. False means that
// there is none of this name.
func (r *Remote) StatusOf(issuer string) (SourceStatus, bool) {
	s, ok := r.source(issuer)
	if !ok {
		return SourceStatus{}, false
	}
	s.watch(r)
	return s.statusWithKeys(r.c.Now()), true
}

// statusWithKeys is the status, with the keys of an API server that reviews tokens
// and why they cannot be had.
func (s *remoteSource) statusWithKeys(now time.Time) SourceStatus {
	out := s.status(now)
	if s.local == nil {
		return out
	}
	local := s.local.status(now)
	out.Keys, out.Refresh, out.Stale = local.Keys, local.Refresh, local.Stale
	if out.Err == nil {
		out.Err = local.Err
	}
	return out
}

func (s *remoteSource) status(now time.Time) SourceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := SourceStatus{
		Issuer: s.name, Kind: s.Kind(), Fetched: s.fetched, Asked: s.attempted, Refresh: s.refresh, Stale: s.stale, Err: s.err,
		Fetches: s.counts.ok.Load(), Failures: s.counts.failed.Load(),
	}
	if s.Kind() != Inline && !now.Before(s.stale) {
		return out // what there is counts no more
	}
	for k := range s.keys.All() {
		out.Keys = append(out.Keys, SourceKey{k.ID, algorithmOf(k)})
	}
	return out
}

// algorithmOf says what a key is for, or what it is.
func algorithmOf(k jose.Key) string {
	if k.Algorithm != "" {
		return string(k.Algorithm)
	}
	switch pub := k.Public.(type) {
	case *ecdsa.PublicKey:
		return "EC " + pub.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", pub.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	default:
		return "unknown"
	}
}

// The metrics of a Remote. Their labels are names of Issuer resources.
var (
	descIssuerKeys = prometheus.NewDesc("sts_issuer_keys",
		"Keys of a trusted issuer that can be used now.", []string{"issuer"}, nil)
	descIssuerFetches = prometheus.NewDesc("sts_issuer_fetches_total",
		"Attempts to fetch the keys of a trusted issuer, or to have a token reviewed, by outcome (ok, failed).", []string{"issuer", "outcome"}, nil)
	descIssuerAge = prometheus.NewDesc("sts_issuer_key_age_seconds",
		"How long ago the keys of a trusted issuer were confirmed last; missing before the first time.", []string{"issuer"}, nil)
)

func remoteMetrics() []*prometheus.Desc {
	return []*prometheus.Desc{descIssuerKeys, descIssuerFetches, descIssuerAge}
}

// Collector returns the metrics of the Remote.
func (r *Remote) Collector() prometheus.Collector { return remoteCollector{r} }

type remoteCollector struct{ r *Remote }

// Describe implements prometheus.Collector.
func (remoteCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range remoteMetrics() {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c remoteCollector) Collect(ch chan<- prometheus.Metric) {
	now := c.r.c.Now()
	for _, s := range c.r.Status() {
		ch <- prometheus.MustNewConstMetric(descIssuerKeys, prometheus.GaugeValue, float64(len(s.Keys)), s.Issuer)
		ch <- prometheus.MustNewConstMetric(descIssuerFetches, prometheus.CounterValue, float64(s.Fetches), s.Issuer, "ok")
		ch <- prometheus.MustNewConstMetric(descIssuerFetches, prometheus.CounterValue, float64(s.Failures), s.Issuer, "failed")
		if !s.Fetched.IsZero() && s.Kind != Inline {
			ch <- prometheus.MustNewConstMetric(descIssuerAge, prometheus.GaugeValue, now.Sub(s.Fetched).Seconds(), s.Issuer)
		}
	}
}
