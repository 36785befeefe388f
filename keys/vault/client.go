package vault

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Client is a connection to one Vault, which may have several nodes. It logs in
// by itself and stays so. Its methods may be called at the same time.
type Client struct {
	config  Config
	wire    *wire
	session *session

	ctx    context.Context // of what belongs to no caller
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

var (
	errClosed  = newError(Unreachable, "the connection to vault is closed")
	errNoLogin = newError(Unreachable, "the login to vault is under way")
)

// Open returns a client. It reads the files of the configuration and does not
// wait for Vault, which may be down. Close it to end its work.
func Open(c Config) (*Client, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	f, err := readFiles(c)
	if err != nil {
		return nil, err
	}
	w, err := newWire(c, f)
	if err != nil {
		return nil, fmt.Errorf("making a client of vault: %w", err)
	}
	client := &Client{config: c, wire: w, session: newSession(c, w, f)}
	client.ctx, client.cancel = context.WithCancel(context.Background())
	client.wg.Go(func() { client.session.run(client.ctx) })
	return client, nil
}

// Close ends the client and the calls under way. It does not revoke the token.
func (c *Client) Close() {
	c.cancel()
	c.wg.Wait()
	c.wire.transport.Load().CloseIdleConnections()
}

// Err returns nil, or why Vault cannot be used at the moment: an [*Error]. It
// does not ask; it repeats what was found last, which is not longer ago than a
// few seconds.
func (c *Client) Err() error {
	v := c.session.view.Load()
	answered := time.Unix(0, c.session.answered.Load())
	if v.err == nil && v.grant == nil {
		if v.trying && time.Since(answered) < c.config.Timeout {
			return nil // those who call wait for the token that replaces the last one
		}
		return errNoLogin
	}
	if v.grant != nil && answered.After(v.since) {
		return nil // a call has shown otherwise since
	}
	return v.err
}

// Ready waits until there is a login and Vault can be used. If the context ends
// before, the error says why it cannot.
func (c *Client) Ready(ctx context.Context) error {
	for {
		v := c.session.view.Load()
		switch {
		case v.closed:
			return errClosed
		case v.grant != nil && v.err == nil:
			return nil
		}
		select {
		case <-v.next:
		case <-ctx.Done():
			if v.err == nil {
				return fmt.Errorf("waiting for the login to vault: %w", context.Cause(ctx))
			}
			return fmt.Errorf("waiting for vault: %w (the last attempt: %w)", context.Cause(ctx), v.err)
		}
	}
}

// call sends a request with the token of the session. The time it takes is
// bounded by the configuration and by the caller's context; if that ends first,
// the error is not one of Vault.
func (c *Client) call(ctx context.Context, r request) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	body, err := c.ask(bounded, r)
	switch {
	case err == nil:
		return body, nil
	case c.ctx.Err() != nil:
		return nil, errClosed
	case ctx.Err() != nil:
		return nil, fmt.Errorf("waiting for vault: %w", context.Cause(ctx))
	}
	return nil, err
}

// ask sends a request, and a second time with a new token if the first was
// denied because its token is not valid any more.
func (c *Client) ask(ctx context.Context, r request) ([]byte, error) {
	g, err := c.session.token(ctx)
	if err != nil {
		return nil, err
	}
	r.token = g.token
	body, err := c.wire.send(ctx, r)
	if kindOfError(err) == Denied {
		next, lost := c.session.doubt(ctx, g)
		if lost != nil {
			return nil, lost
		}
		if next != nil {
			r.token = next.token
			body, err = c.wire.send(ctx, r)
		}
	}
	c.session.note(err)
	return body, err
}
