package server

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/workload-sts/sts/sts"
)

// metrics are what the wire counts. Every label value comes from a table of
// ours, so that no caller can make new series.
type metrics struct {
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	limited    *prometheus.CounterVec
	watches    prometheus.Gauge
	build      *prometheus.GaugeVec
	service    *sts.Service // nil: only to describe
	logDropped func() int64

	introspections *prometheus.CounterVec
	revocations    prometheus.GaugeFunc
	registrations  *prometheus.CounterVec
	registered     prometheus.GaugeFunc
	suppressed     prometheus.CounterFunc
}

var (
	descStaleness  = prometheus.NewDesc("sts_storage_staleness_seconds", "Time since the storage confirmed last which resources are in force.", nil, nil)
	descLogDropped = prometheus.NewDesc("sts_log_dropped_total", "Lines of the log that were not written, because nobody reads them, or not as fast as they come.", nil, nil)
	descShadow     = prometheus.NewDesc("sts_shadow_decisions_total", "Decisions made beside those in force by a shadow revision on this node, by result: same, skipped, or what was different.", []string{"result"}, nil)
)

// newMetrics may get no service, for what the metrics are called.
func newMetrics(version string, service *sts.Service) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sts_requests_total",
			Help: "Requests that were answered, by gRPC method, grant type, outcome (ok, refused, failed) and error code.",
		}, []string{"method", "grant", "outcome", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "sts_request_duration_seconds",
			Help:    "Time to answer a request.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"method"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sts_limited_total",
			Help: "Requests that were refused because of a limit: requests at once, total, source, client or audience.",
		}, []string{"limit"}),
		watches: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sts_watch_streams",
			Help: "WatchToken streams that are open.",
		}),
		build: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sts_build_info",
			Help: "Always 1; the labels say what is running.",
		}, []string{"version", "goversion"}),
		introspections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sts_introspections_total",
			Help: "Introspections that were answered, by whether the token was told to be active.",
		}, []string{"active"}),
		revocations: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sts_revocations",
			Help: "Revocations whose tokens may still be alive, as this node knows them.",
		}, func() float64 { return float64(service.RevocationCount()) }),
	}
	m.suppressed = prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "sts_audit_suppressed_total",
		Help: "Refusals of callers of whom it is not known who they are that are in the audit log by their count only.",
	}, func() float64 { return float64(service.Suppressed()) })
	m.registrations = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sts_registrations_total",
		Help: "What registered clients, and those who register, have done, by action: register, read, update, delete.",
	}, []string{"action"})
	m.registered = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sts_registered_clients",
		Help: "Clients that were registered dynamically, as this node knows them.",
	}, func() float64 { return float64(service.RegisteredClientCount()) })
	m.service, m.logDropped = service, func() int64 { return 0 }
	m.build.WithLabelValues(version, runtime.Version()).Set(1)
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(ch)
	}
	ch <- descStaleness
	ch <- descShadow
	ch <- descLogDropped
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(ch)
	}
	ch <- prometheus.MustNewConstMetric(descStaleness, prometheus.GaugeValue, m.service.Staleness().Seconds())
	ch <- prometheus.MustNewConstMetric(descLogDropped, prometheus.CounterValue, float64(m.logDropped()))
	for result, n := range m.service.ShadowDecisions() {
		ch <- prometheus.MustNewConstMetric(descShadow, prometheus.CounterValue, float64(n), result)
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.duration, m.limited, m.watches, m.build, m.introspections, m.revocations, m.suppressed, m.registrations, m.registered}
}

// Metrics describes the metrics that a Server has, for their reference.
func Metrics() []*prometheus.Desc {
	ch := make(chan *prometheus.Desc)
	go func() {
		newMetrics("", nil).Describe(ch)
		close(ch)
	}()
	var out []*prometheus.Desc
	for d := range ch {
		out = append(out, d)
	}
	return out
}

// grantLabels are the grants as labels.
var grantLabels = map[sts.GrantType]string{
	sts.ClientCredentials: "client_credentials",
	sts.TokenExchange:     "token_exchange",
}

// grantLabel never returns what a caller wrote.
func grantLabel(g sts.GrantType) string {
	if l, ok := grantLabels[g]; ok {
		return l
	}
	return "other"
}

// methodLabel is other for what is not a method, such as a path that is not
// there.
func methodLabel(method string) string {
	if _, known := accessTo[method]; known {
		return method
	}
	return "other"
}

func (m *metrics) observe(k *call, r *refusal, took time.Duration) {
	method, outcome, code := methodLabel(k.method), "ok", ""
	if r != nil {
		outcome, code = "refused", string(r.sts.Code)
		if r.sts.Code == sts.Unavailable || r.sts.Code == sts.ServerError {
			outcome = "failed"
		}
		if r.sts.Limit != "" {
			m.limited.WithLabelValues(r.sts.Limit).Inc()
		}
	}
	m.requests.WithLabelValues(method, k.grant, outcome, code).Inc()
	m.duration.WithLabelValues(method).Observe(took.Seconds())
}
