// Command vaultserver is a real HashiCorp Vault with only what tests need: the
// core, its HTTP API, the transit engine, and the token, AppRole and
// TLS-certificate auth methods, on storage in memory or in a directory.
//
// When it serves it prints one line of JSON: {"address", "root_token",
// "unseal_key"}. With -dir, a later start finds what an earlier one left and
// comes up sealed, as a restarted Vault does; its line has the address only,
// and the key of the first start opens it over the API.
//
// It ends when its standard input does or when its parent is gone, so a test
// that is killed leaves no server behind.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/vault"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "vaultserver:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	parent := os.Getppid()
	flags := flag.NewFlagSet("vaultserver", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:0", "serve on `address`")
	dir := flags.String("dir", "", "keep the data in `directory` (default: in memory)")
	var files tlsFiles
	flags.StringVar(&files.cert, "tls-cert", "", "serve HTTPS with the certificate chain in `file`")
	flags.StringVar(&files.key, "tls-key", "", "the private key of -tls-cert, in `file`")
	flags.StringVar(&files.clientCA, "tls-client-ca", "", "ask clients for a certificate of the authorities in `file`; they may have none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	tlsConfig, err := files.config()
	if err != nil {
		return err
	}
	core, err := openCore(*dir, hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: stderr}))
	if err != nil {
		return err
	}
	ready := struct {
		Address string `json:"address"`
		secrets
	}{}
	if ready.secrets, err = initialize(context.Background(), core); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	ready.Address = "http://" + ln.Addr().String()
	if tlsConfig != nil {
		ready.Address = "https://" + ln.Addr().String()
		ln = tls.NewListener(ln, tlsConfig)
	}
	server := &http.Server{Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	if err := json.NewEncoder(stdout).Encode(ready); err != nil {
		return err
	}
	select {
	case err := <-ended:
		return err
	case <-alone(stdin, parent):
		return nil
	}
}

// alone receives when nobody needs this process any more: its input has ended,
// or it has another parent than at its start.
func alone(stdin io.Reader, parent int) <-chan struct{} {
	over := make(chan struct{}, 2)
	go func() {
		io.Copy(io.Discard, stdin) // an unreadable input has ended too
		over <- struct{}{}
	}()
	go func() {
		for os.Getppid() == parent {
			time.Sleep(time.Second)
		}
		over <- struct{}{}
	}()
	return over
}

// tlsFiles name files in PEM.
type tlsFiles struct{ cert, key, clientCA string }

// config returns nil if HTTPS was not asked for.
func (f tlsFiles) config() (*tls.Config, error) {
	if f == (tlsFiles{}) {
		return nil, nil
	}
	if f.cert == "" || f.key == "" {
		return nil, errors.New("HTTPS needs both -tls-cert and -tls-key")
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	if f.clientCA != "" {
		pem, err := os.ReadFile(f.clientCA)
		if err != nil {
			return nil, err
		}
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", f.clientCA)
		}
		// As Vault's own listener does: the auth method checks the certificate.
		c.ClientAuth = tls.RequestClientCert
	}
	return c, nil
}
