package storage

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// auditMetrics are counted by an Audit.
type auditMetrics struct {
	records, writeFailures          atomic.Int64
	checkpoints, checkpointFailures atomic.Int64
	rotations, rotationFailures     atomic.Int64
}

// The metrics of an Audit. Their labels are names from the configuration.
var (
	descAuditRecords = prometheus.NewDesc("sts_audit_records_total",
		"Lines written to the audit log, those that it writes of itself included.", nil, nil)
	descAuditFailures = prometheus.NewDesc("sts_audit_write_failures_total",
		"Writes to the audit log that failed; what was in them did not take effect.", nil, nil)
	descAuditSeq = prometheus.NewDesc("sts_audit_last_record",
		"Number of the last line of the audit log.", nil, nil)
	descAuditUncovered = prometheus.NewDesc("sts_audit_uncovered_records",
		"Lines of the audit log that no checkpoint covers yet.", nil, nil)
	descAuditCheckpoints = prometheus.NewDesc("sts_audit_checkpoints_total",
		"Checkpoints of the audit log, by outcome (ok, failed: tried again later).", []string{"outcome"}, nil)
	descAuditRotations = prometheus.NewDesc("sts_audit_rotations_total",
		"Files of the audit log that were followed by the next, by outcome (ok, failed: it goes on in the one before).", []string{"outcome"}, nil)
	descAuditSent = prometheus.NewDesc("sts_audit_sink_sent_total",
		"Lines of the audit log that a sink has taken.", []string{"sink"}, nil)
	descAuditDropped = prometheus.NewDesc("sts_audit_sink_dropped_total",
		"Lines of the audit log that a sink did not get.", []string{"sink"}, nil)
	descAuditSinkFailures = prometheus.NewDesc("sts_audit_sink_failures_total",
		"Attempts to send lines of the audit log to a sink that failed.", []string{"sink"}, nil)
	descAuditWaiting = prometheus.NewDesc("sts_audit_sink_waiting",
		"Lines of the audit log that wait for a sink.", []string{"sink"}, nil)
)

// AuditMetrics describes the metrics of an Audit, for their reference.
func AuditMetrics() []*prometheus.Desc {
	return []*prometheus.Desc{
		descAuditRecords, descAuditFailures, descAuditSeq, descAuditUncovered, descAuditCheckpoints, descAuditRotations,
		descAuditSent, descAuditDropped, descAuditSinkFailures, descAuditWaiting,
	}
}

// Collector returns the metrics of the log.
func (a *Audit) Collector() prometheus.Collector { return auditCollector{a} }

type auditCollector struct{ a *Audit }

// Describe implements prometheus.Collector.
func (auditCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range AuditMetrics() {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c auditCollector) Collect(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	a, m := c.a, &c.a.metrics
	last := a.reached.Load().seq
	count(descAuditRecords, m.records.Load())
	count(descAuditFailures, m.writeFailures.Load())
	gauge(descAuditSeq, last)
	if a.checkpoint != nil {
		gauge(descAuditUncovered, last-a.checkpoint.covered.Load())
		count(descAuditCheckpoints, m.checkpoints.Load(), "ok")
		count(descAuditCheckpoints, m.checkpointFailures.Load(), "failed")
	}
	count(descAuditRotations, m.rotations.Load(), "ok")
	count(descAuditRotations, m.rotationFailures.Load(), "failed")
	for _, s := range a.sinks {
		count(descAuditSent, s.sent.Load(), s.Name)
		count(descAuditDropped, s.dropped.count(), s.Name)
		count(descAuditSinkFailures, s.failures.Load(), s.Name)
		gauge(descAuditWaiting, int64(len(s.lines)), s.Name)
	}
}
