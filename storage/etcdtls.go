package storage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
)

// etcdFiles are the files that secure connections.
type etcdFiles struct{ options EtcdOptions }

// config reads the files.
func (f *etcdFiles) config() (*tls.Config, error) {
	o := f.options
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("the authorities of etcd: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the authorities of etcd: %s holds no certificate in PEM", o.CAFile)
		}
	}
	if o.CertFile == "" {
		return c, nil
	}
	pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("the client certificate for etcd, %s with key %s: %w", o.CertFile, o.KeyFile, err)
	}
	// Even if the member does not name the authority among those that it takes.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return c, nil
}

// etcdTLS secures each connection by what the files hold when it is made.
type etcdTLS struct {
	files *etcdFiles
	pulse *pulse
}

// ClientHandshake implements credentials.TransportCredentials.
func (t *etcdTLS) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, err := t.files.config()
	if err != nil {
		t.pulse.trouble(raw.RemoteAddr().String(), err)
		return nil, nil, err
	}
	conn, info, err := credentials.NewTLS(c).ClientHandshake(ctx, authority, raw)
	if err != nil {
		t.pulse.trouble(raw.RemoteAddr().String(), err)
	}
	return conn, info, err
}

// ServerHandshake implements credentials.TransportCredentials.
func (t *etcdTLS) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, fmt.Errorf("these are credentials of a client")
}

// Info implements credentials.TransportCredentials.
func (t *etcdTLS) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (t *etcdTLS) Clone() credentials.TransportCredentials { return &etcdTLS{t.files, t.pulse} }

// OverrideServerName implements credentials.TransportCredentials. It is deprecated
// and used by nobody.
func (t *etcdTLS) OverrideServerName(string) error { return nil }
