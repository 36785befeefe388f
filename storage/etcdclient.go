package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// etcdClient is a client with the password that it logs in with.
type etcdClient struct {
	*clientv3.Client
	password string
}

// Of connections. A dead one is noticed by a ping, or sooner by requests; see
// pulse. grpc-go does not ping more often.
const (
	etcdPingAfter = 10 * time.Second
	etcdPingWaits = 3 * time.Second
	etcdRedial    = 2 * time.Second // the longest wait after an attempt that failed
)

// connect makes a client and logs it in. It does not wait for a connection if
// there is no login.
func (e *Etcd) connect(ctx context.Context) error {
	password := ""
	if e.options.Username != "" {
		var err error
		if password, err = readPassword(e.options.PasswordFile); err != nil {
			return err
		}
	}
	secure := strings.HasPrefix(e.options.Endpoints[0], "https:")
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 100*time.Millisecond, etcdRedial
	dial := []grpc.DialOption{
		grpc.WithContextDialer(e.pulse.dial),
		grpc.WithStatsHandler(e.pulse),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: e.options.DialTimeout}),
	}
	if secure {
		dial = append(dial, grpc.WithTransportCredentials(&etcdTLS{files: e.files, pulse: e.pulse}))
	}
	login, cancel := context.WithTimeout(ctx, e.options.RequestTimeout)
	defer cancel()
	c, err := clientv3.New(clientv3.Config{
		Context:           e.ctx,
		Endpoints:         e.options.Endpoints,
		Username:          e.options.Username,
		Password:          password,
		DialTimeout:       e.options.RequestTimeout, // of the login, which goes to one member after the other
		DialKeepAliveTime: etcdPingAfter, DialKeepAliveTimeout: etcdPingWaits,
		DialOptions: dial,
		Logger:      zap.NewNop(), // what matters comes back as errors
	})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			<-login.Done()
		}
		return e.problem(ctx, err, false)
	}
	if old := e.client.Swap(&etcdClient{c, password}); old != nil {
		// Calls under way that it still has were refused, or are about to be.
		return ignoreCancelled(old.Close())
	}
	return nil
}

func ignoreCancelled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// loggedOut tells whether an error says that the login is not valid any more. The
// library has then tried to log in again.
func (e *Etcd) loggedOut(err error) bool {
	return e.options.Username != "" &&
		(errors.Is(err, rpctypes.ErrAuthFailed) || errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthOldRevision))
}

// relogin logs in with what the file of the password holds now, if that is not
// what a client has that was refused.
func (e *Etcd) relogin(ctx context.Context, refused *etcdClient) error {
	e.login.Lock()
	defer e.login.Unlock()
	if e.client.Load() != refused {
		return nil // another caller has been here
	}
	password, err := readPassword(e.options.PasswordFile)
	if err != nil {
		return err
	}
	if password == refused.password {
		return rpctypes.ErrAuthFailed
	}
	return e.connect(ctx)
}

// readPassword returns the one line of a file. Errors do not repeat it.
func readPassword(file string) (string, error) {
	const most = 4 << 10
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("the password for etcd: %w", err)
	}
	password := strings.TrimRight(string(b), "\r\n")
	if password == "" || len(password) > most || strings.ContainsAny(password, "\r\n\x00") {
		return "", fmt.Errorf("the password for etcd: %s must hold one line of 1 to %d bytes", file, most)
	}
	return password, nil
}
