package keys

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/workload-sts/sts/keys/vault"
)

// The metrics of a Ring. Their labels are names from the configuration and
// thumbprints of our own keys, nothing from outside.
var (
	descKey = prometheus.NewDesc("sts_signing_key",
		"Always 1; the labels say what each key is: next, current, previous or revoked.", []string{"key_set", "kid", "alg", "role"}, nil)
	descSigns = prometheus.NewDesc("sts_signing_key_signs_timestamp_seconds",
		"When the next key of a set begins to sign.", []string{"key_set", "kid"}, nil)
	descVerifiers = prometheus.NewDesc("sts_signing_key_verifiers",
		"Distinct verifiers that this node has delivered a key to since it started.", []string{"key_set", "kid"}, nil)
	descDue = prometheus.NewDesc("sts_signing_rotation_due_timestamp_seconds",
		"When the next key of a set is to be made; missing while one waits, or if nobody asked for one.", []string{"key_set"}, nil)
	descProblems = prometheus.NewDesc("sts_signing_problems",
		"Things that are wrong with a key set; `stsctl keys status` tells them.", []string{"key_set"}, nil)
	descAge = prometheus.NewDesc("sts_signing_state_age_seconds",
		"How long ago the state of the signing keys was last read from the storage.", nil, nil)
	descCalls = prometheus.NewDesc("sts_vault_sign_calls_total",
		"Calls to Vault for signatures, by key set and outcome (ok, failed).", []string{"key_set", "outcome"}, nil)
	descSignatures = prometheus.NewDesc("sts_vault_signatures_total",
		"Signatures asked of Vault, by key set and outcome (ok, failed, refused: not sent, because Vault does not answer or too many wait).", []string{"key_set", "outcome"}, nil)
	descOpened = prometheus.NewDesc("sts_vault_circuit_openings_total",
		"How often signing with a key set was given up until Vault answers again.", []string{"key_set"}, nil)
	descRejected = prometheus.NewDesc("sts_vault_signatures_rejected_total",
		"Signatures of Vault that did not verify with the published key, and were not used.", []string{"key_set"}, nil)
)

// Collector returns the metrics of the Ring.
func (r *Ring) Collector() prometheus.Collector { return collector{r} }

// Metrics describes the metrics of this package, for their reference.
func Metrics() []*prometheus.Desc { return slices.Concat(ringMetrics(), remoteMetrics()) }

func ringMetrics() []*prometheus.Desc {
	return []*prometheus.Desc{
		descKey, descSigns, descVerifiers, descDue, descProblems, descAge, descCalls, descSignatures, descOpened, descRejected,
	}
}

type collector struct{ r *Ring }

// Describe implements prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range ringMetrics() {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descAge, c.r.age(c.r.c.Now()).Seconds())
	for _, set := range c.r.Status() {
		gauge(descProblems, float64(len(set.Problems)), set.Name)
		if !set.RotationDue.IsZero() {
			gauge(descDue, float64(set.RotationDue.Unix()), set.Name)
		}
		for _, k := range set.Keys {
			gauge(descKey, 1, k.Set, k.KID, k.Algorithm, k.Role)
			if Role(k.Role) == Revoked {
				continue
			}
			gauge(descVerifiers, float64(k.Verifiers), k.Set, k.KID)
			if Role(k.Role) == Next && !k.Signs.IsZero() {
				gauge(descSigns, float64(k.Signs.Unix()), k.Set, k.KID)
			}
		}
	}
	for name, s := range c.r.sets {
		if s.Provider.kind() == kindVault {
			c.vault(ch, name, s.counted())
		}
	}
}

func (collector) vault(ch chan<- prometheus.Metric, set string, n tally) {
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{set}, labels...)...)
	}
	count(descCalls, n.Calls-n.FailedCalls, "ok")
	count(descCalls, n.FailedCalls, "failed")
	count(descSignatures, n.Signatures, "ok")
	count(descSignatures, n.Failures, "failed")
	count(descSignatures, n.Refused, "refused")
	count(descOpened, n.Opened)
	count(descRejected, n.rejected)
}

// tally is what has been counted of the signers of a set.
type tally struct {
	vault.Stats
	rejected uint64
}

func (t *tally) add(sg signer) {
	v, ok := sg.(*vaultSigner)
	if !ok {
		return
	}
	n := v.Stats()
	t.Calls += n.Calls
	t.FailedCalls += n.FailedCalls
	t.Signatures += n.Signatures
	t.Failures += n.Failures
	t.Refused += n.Refused
	t.Opened += n.Opened
	t.rejected += v.rejected.Load()
}

// counted is what has been counted of a set since the start, of keys that have
// gone as well.
func (s *keySet) counted() tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.past
	for _, sg := range s.signers {
		sum.add(sg)
	}
	return sum
}
