package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/storage"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/server"
)

// certificateCheck is how often certificate files are looked at.
const certificateCheck = 10 * time.Second

// serveConfig runs the service as a file says.
func serveConfig(ctx context.Context, file string, stdout, stderr io.Writer) error {
	c, err := loadConfig(file)
	if err != nil {
		return err
	}
	ls, err := listen(c)
	if err != nil {
		return err
	}
	n, err := open(ctx, c, false, stderr)
	if err != nil {
		return errors.Join(err, ls.close())
	}
	defer n.close()
	if err := ls.listenAdmin(c.Admin.Socket); err != nil {
		return errors.Join(err, ls.close())
	}
	if !n.administrable(c) {
		n.log.Warn("nobody can administer this server yet: there is no admin socket, no administrator in the configuration, and no Audience for the admin interface", "audience", n.service.AdminAudience())
	}
	return n.serve(ctx, ls)
}

// listeners are where a node listens.
type listeners struct {
	http, grpc net.Listener
	socket     []net.Listener // of the admin interface; at most one
}

func listen(c *stsv1.ServerConfig) (ls listeners, err error) {
	if ls.http, err = net.Listen("tcp", c.Http.Listen); err != nil {
		return ls, fmt.Errorf("listening for HTTP: %w", err)
	}
	if ls.grpc, err = net.Listen("tcp", c.Grpc.Listen); err != nil {
		return ls, errors.Join(fmt.Errorf("listening for gRPC: %w", err), ls.close())
	}
	return ls, nil
}

// listenAdmin adds the admin socket, if there is to be one. It comes when the store
// is open, whose lock says better that another process runs.
func (ls *listeners) listenAdmin(s *stsv1.AdminSocketConfig) error {
	if s.Path == "" {
		return nil
	}
	ln, err := server.ListenAdmin(s.Path, len(s.Uids)+len(s.Gids) > 0)
	if err == nil {
		ls.socket = []net.Listener{ln}
	}
	return err
}

// close closes what is open.
func (ls listeners) close() (err error) {
	for _, ln := range append([]net.Listener{ls.http, ls.grpc}, ls.socket...) {
		if ln != nil {
			err = errors.Join(err, ln.Close())
		}
	}
	return err
}

// node is a wired service.
type node struct {
	ring       *keys.Ring
	replay     sts.Replay
	metrics    []prometheus.Collector // of the store
	revoked    *storage.Revocations
	registered *storage.Registrations // nil: clients cannot be registered
	store      *storage.Store
	shared     bool // the store is that of other nodes too
	keep       int  // revisions of the resources
	service    *sts.Service
	server     *server.Server
	log        *slog.Logger
	lost       func() int64   // lines of log that nobody took
	closers    []func() error // in the order of opening
}

// open wires a service from its configuration.
func open(ctx context.Context, c *stsv1.ServerConfig, createKeyFile bool, stderr io.Writer) (_ *node, err error) {
	if err := checkClock(); err != nil {
		return nil, err
	}
	lines := newLogWriter(stderr)
	n := &node{
		log:  slog.New(slog.NewJSONHandler(lines, &slog.HandlerOptions{Level: logLevel(c.Log.Level)})),
		lost: lines.Dropped, closers: []func() error{lines.Close},
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	store, err := n.openStore(ctx, c.Storage)
	if err != nil {
		return nil, err
	}
	return n, n.wire(ctx, c, store, createKeyFile)
}

// released is a moment that no right clock stands before any more.
var released = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// checkClock refuses a clock that was never set, as of a machine without a battery:
// what has expired would be good again.
func checkClock() error {
	if now := clock(); now.Before(released) {
		return fmt.Errorf("the clock of this machine says %s, which is before this program was made: set it, and start again", now.UTC().Format(time.RFC3339))
	}
	return nil
}

// wire wires all that stands on a store.
func (n *node) wire(ctx context.Context, c *stsv1.ServerConfig, store *storage.Store, createKeyFile bool) (err error) {
	n.store, n.shared, n.keep = store, c.Storage.Etcd != nil, int(c.Storage.KeepRevisions)
	if n.ring, err = n.openKeys(ctx, c, store.KeyStates(), createKeyFile); err != nil {
		return err
	}
	remote := keys.NewRemote(keys.RemoteConfig{Now: clock, OnFetch: n.fetched})
	n.closers = append(n.closers, func() error { remote.Close(); return nil })
	clients := keys.NewRemote(keys.RemoteConfig{Now: clock, OnFetch: n.fetchedOfClient})
	n.closers = append(n.closers, func() error { clients.Close(); return nil })
	audit, err := n.openAudit(c.Audit)
	if err != nil {
		return err
	}
	var nonceKey []byte
	if c.Dpop.RequireNonce {
		if nonceKey, err = store.SharedKey(ctx, nonceKeyName); err != nil {
			return err
		}
	}
	if n.revoked, err = store.Revocations(ctx); err != nil {
		return err
	}
	var registrations sts.Registrations
	if c.GetRegistration().GetEnabled() {
		if n.registered, err = store.Registrations(ctx); err != nil {
			return err
		}
		registrations = n.registered
	}
	n.service, err = sts.New(ctx, sts.Config{
		Now:    clock,
		Issuer: c.Issuer, Store: store, Keys: signingKeys{n.ring}, IssuerKeys: issuerKeys{remote}, ClientKeys: clientKeys{clients},
		Audit: audit, Replay: n.replay, Transactions: store, Revocations: n.revoked, Registrations: registrations, Usage: store, Snapshots: store.Snapshots(), AuditChains: store, NonceKey: nonceKey,
		OmitFacts: c.GetAudit().GetOmitFacts(), CertificateMethods: certificateMethods(c.Http),
		Limits: sts.Limits{
			Total: server.RateFromProto(c.Limits.Total), Source: server.RateFromProto(c.Limits.Source), Client: server.RateFromProto(c.Limits.Client),
		},
		MaxStaleness: c.Storage.MaxStaleness.AsDuration(),
		Strangers:    sts.StrangerLimits{PerNetwork: int(c.Audit.Strangers.PerNetwork), Total: int(c.Audit.Strangers.Total)},
	})
	if err != nil {
		return err
	}
	restored, err := store.Restored(ctx)
	if err == nil && !restored.IsZero() {
		err = n.service.RevokeRestored(ctx, restored)
	}
	if err != nil {
		return err
	}
	for _, p := range n.service.Unsafe() {
		n.log.Warn("a resource that was applied before would be refused now", "resource", p.Ref.String(), "field", p.Field, "problem", p.Message)
	}
	return n.wireServer(c, append(n.metrics, n.ring.Collector(), remote.Collector(), audit.Collector())...)
}

// wireServer wires what faces callers.
func (n *node) wireServer(c *stsv1.ServerConfig, metrics ...prometheus.Collector) error {
	httpTLS, err := n.tls(c.Http.Tls)
	if err != nil {
		return fmt.Errorf("http.tls: %w", err)
	}
	grpcTLS, err := n.tls(c.Grpc.Tls)
	if err != nil {
		return fmt.Errorf("grpc.tls: %w", err)
	}
	httpClients, err := n.clientCertificates(c.Http)
	if err != nil {
		return fmt.Errorf("http.tls.client_certificates: %w", err)
	}
	grpcClients, err := n.clientCertificates(c.Grpc)
	if err != nil {
		return fmt.Errorf("grpc.tls.client_certificates: %w", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(append(metrics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))...)
	n.server, err = server.New(server.Config{
		Service: n.service, Logger: n.log, LogDropped: n.lost, Registry: registry, HTTPTLS: httpTLS, GRPCTLS: grpcTLS,
		GRPCURL: c.Dpop.GrpcUrl, Admin: adminConfig(c.Admin),
		HTTPClients: httpClients, GRPCClients: grpcClients,
		RequestTimeout: c.Limits.RequestTimeout.AsDuration(), ShutdownGrace: c.ShutdownGrace.AsDuration(),
		MaxRequests: int(c.Limits.MaxRequests), MaxConnections: int(c.Limits.MaxConnections), MaxWatches: int(c.Limits.MaxWatches), Version: version(),
	})
	return err
}

// tls returns the TLS configuration of a listener, nil for plain text.
func (n *node) tls(c *stsv1.TlsConfig) (*tls.Config, error) {
	if c == nil {
		return nil, nil
	}
	t, closer, err := server.ReloadingTLS(c.CertFile, c.KeyFile, certificateCheck, n.log)
	if err == nil {
		n.closers = append(n.closers, closer.Close)
	}
	return t, err
}

// serve serves until ctx ends or something fails for good. It closes the
// listeners.
func (n *node) serve(ctx context.Context, ls listeners) error {
	where := []any{"issuer", n.service.Metadata().Issuer, "http", ls.http.Addr().String(), "grpc", ls.grpc.Addr().String()}
	for _, ln := range ls.socket {
		where = append(where, "admin_socket", ln.Addr().String())
	}
	n.log.Info("serving", where...)
	g, ctx := errgroup.WithContext(ctx)
	// Keys and resources are kept up to date until the last request in flight is
	// done.
	serving, served := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return n.ring.Run(serving) })
	g.Go(func() error { return n.revoked.Run(serving) })
	if n.registered != nil {
		g.Go(func() error { return n.registered.Run(serving) })
	}
	g.Go(func() error { return n.service.Run(serving) })
	g.Go(func() error {
		n.store.Collect(serving, n.keep, func(err error) { n.log.Warn("storage", "error", err.Error()) })
		return nil
	})
	g.Go(func() error {
		defer served()
		return n.server.Serve(ctx, ls.http, ls.grpc, ls.socket...)
	})
	err := g.Wait()
	n.log.Info("stopped")
	return err
}

// close closes what open opened, the last first.
func (n *node) close() {
	for i := len(n.closers) - 1; i >= 0; i-- {
		if err := n.closers[i](); err != nil {
			n.log.Error("closing", "error", err)
		}
	}
}

// fetched logs what came of asking an issuer for its keys.
func (n *node) fetched(issuer string, err error, skipped []error) {
	if err != nil {
		n.log.Warn("the keys of an issuer could not be fetched", "issuer", issuer, "error", err.Error())
	}
	for _, why := range skipped {
		n.log.Warn("a key of an issuer cannot be used", "issuer", issuer, "error", why.Error())
	}
}
