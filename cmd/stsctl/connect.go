package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// connFlags say where the server is. A command that connects adds them.
type connFlags struct {
	addr, issuer, caFile, envFile string
	adminTokenFile                string
	clientID, clientSecretFile    string
	clientKeyFile, clientKeyID    string
	clientAssertionFile           string
	dpopKeyFile                   string // empty: no proofs
	boundToken                    string // what the key is for; empty: a token that is asked for
	tlsCert, tlsKey               string
	timeout                       time.Duration

	env        map[string]string // of envFile
	proofs     *proofs           // of the connection; nil: calls have none
	assertions *assertions       // signs for calls; nil: none are needed
}

// server adds the flags of every command that connects.
func (f *connFlags) server(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.addr, "addr", "", "gRPC address of the server, `HOST:PORT` or unix:///PATH (default $STS_GRPC)")
	f.trust(cmd)
}

// trust adds the flags that verification needs too.
func (f *connFlags) trust(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.issuer, "issuer", "", "issuer identifier of the server, a `URL` (default $STS_ISSUER)")
	cmd.Flags().StringVar(&f.caFile, "ca-file", "", "PEM `FILE` with the authorities that sign the server's certificate (default: those of the system)")
	cmd.Flags().StringVar(&f.envFile, "env-file", "", "`FILE` of NAME=VALUE lines to use like the environment, such as a development server's dev.env")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 10*time.Second, "longest time to wait for the server")
}

// admin adds the flags of commands for operators.
func (f *connFlags) admin(cmd *cobra.Command) {
	f.server(cmd)
	cmd.Flags().StringVar(&f.adminTokenFile, "admin-token-file", "", "`FILE` with a token for the admin interface (default $STS_ADMIN_TOKEN); see `stsctl help environment`")
	f.certificate(cmd)
	f.boundFlag(cmd)
}

func (f *connFlags) certificate(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.tlsCert, "tls-cert", "", "PEM `FILE` with a certificate to show to the server, and its chain (default $STS_TLS_CERT)")
	cmd.Flags().StringVar(&f.tlsKey, "tls-key", "", "PEM `FILE` with its private key (default $STS_TLS_KEY)")
}

// client adds the flags of commands that ask for tokens.
func (f *connFlags) client(cmd *cobra.Command) {
	f.server(cmd)
	cmd.Flags().StringVar(&f.clientID, "client-id", "", "`NAME` of the client that asks (default $STS_CLIENT_ID)")
	cmd.Flags().StringVar(&f.clientSecretFile, "client-secret-file", "", "`FILE` with the client's secret (default $STS_CLIENT_SECRET); a secret is never a flag, see `stsctl help environment`")
	cmd.Flags().StringVar(&f.clientKeyFile, "client-key", "", "`FILE` with the client's private key, PEM or JWK, that signs an assertion (default $STS_CLIENT_KEY)")
	cmd.Flags().StringVar(&f.clientKeyID, "client-key-id", "", "`KID` that the server knows the key by, if the file does not say")
	cmd.Flags().StringVar(&f.clientAssertionFile, "client-assertion-file", "", "`FILE` with a token of the client's platform (default $STS_CLIENT_ASSERTION_FILE or $STS_CLIENT_ASSERTION)")
	f.certificate(cmd)
}

// certificateFiles returns the files of the certificate to show to the server,
// empty if there is none.
func (f *connFlags) certificateFiles() (cert, key string, err error) {
	cert, key = f.setting(f.tlsCert, "STS_TLS_CERT"), f.setting(f.tlsKey, "STS_TLS_KEY")
	if (cert == "") != (key == "") {
		return "", "", usage("a certificate needs its key, and the other way round; use --tls-cert and --tls-key, or STS_TLS_CERT and STS_TLS_KEY")
	}
	return cert, key, nil
}

// load reads the file of --env-file.
func (f *connFlags) load() error {
	if f.envFile == "" {
		return nil
	}
	env, err := readEnvFile(f.envFile)
	f.env = env
	return err
}

// setting returns a flag, or what the environment has instead.
func (f *connFlags) setting(flag, name string) string {
	if flag != "" {
		return flag
	}
	if v, ok := f.env[name]; ok {
		return v
	}
	return os.Getenv(name)
}

func (f *connFlags) address() string          { return f.setting(f.addr, "STS_GRPC") }
func (f *connFlags) issuerIdentifier() string { return f.setting(f.issuer, "STS_ISSUER") }

// secret returns the content of a file, or what the environment has instead.
func (f *connFlags) secret(file, name string) (string, error) {
	if file == "" {
		return f.setting("", name), nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", badInput("reading a secret: %v", err)
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

// dial prepares a connection; nothing is sent yet.
func (c *cli) dial() (*grpc.ClientConn, error) {
	addr := c.conn.address()
	if addr == "" {
		return nil, usage("no server given; use --addr HOST:PORT, STS_GRPC or --env-file")
	}
	if strings.HasPrefix(addr, unixScheme) {
		return dialSocket(addr)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" || strings.Contains(addr, "/") {
		return nil, usage("%q is not an address; write HOST:PORT, such as sts.example.com:8443", addr)
	}
	certFile, keyFile, err := c.conn.certificateFiles()
	if err != nil {
		return nil, err
	}
	transport, scheme := insecure.NewCredentials(), "http"
	if !isLoopback(host) || certFile != "" || c.conn.caFile != "" || strings.HasPrefix(c.conn.issuerIdentifier(), "https:") {
		config, err := c.conn.tlsConfig()
		if err != nil {
			return nil, err
		}
		if certFile != "" {
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			if err != nil {
				return nil, badInput("reading --tls-cert and --tls-key: %v", err)
			}
			// Whatever authorities the server names: it says itself what it thinks of
			// a certificate.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		transport, scheme = credentials.NewTLS(config), "https"
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithUserAgent("stsctl/" + version()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
	}
	if c.conn.dpopKeyFile != "" {
		p := &proofs{url: scheme + "://" + addr, token: c.conn.boundToken, now: time.Now}
		if p.key, err = readProofKey(c.conn.dpopKeyFile, p.token == ""); err != nil {
			return nil, err
		}
		c.conn.proofs = p
		opts = append(opts, grpc.WithChainUnaryInterceptor(p.intercept), grpc.WithStreamInterceptor(p.interceptStream))
	}
	if c.conn.assertions != nil {
		opts = append(opts, grpc.WithChainUnaryInterceptor(c.conn.assertions.intercept))
	}
	conn, err := grpc.NewClient("dns:///"+addr, opts...)
	if err != nil {
		return nil, usage("%q is not an address: %v", addr, err)
	}
	return conn, nil
}

// unixScheme begins the address of a unix socket.
const unixScheme = "unix://"

// dialSocket prepares a connection to the admin socket, over which the kernel says
// who calls.
func dialSocket(addr string) (*grpc.ClientConn, error) {
	if !strings.HasPrefix(addr, unixScheme+"/") {
		return nil, usage("%q is not an address; write unix:///PATH with an absolute path, such as unix://%s", addr, defaultSocket)
	}
	conn, err := grpc.NewClient(addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("stsctl/"+version()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)), grpc.WithAuthority("localhost"))
	if err != nil {
		return nil, usage("%q is not an address: %v", addr, err)
	}
	return conn, nil
}

// defaultSocket is where the admin socket of an installed server is.
const defaultSocket = "/run/sts/admin.sock"

// socket returns the address of the admin socket, empty if the server is to be
// reached in another way: because a flag says so, or because there is none.
func (f *connFlags) socket() string {
	if f.addr != "" || f.adminTokenFile != "" || f.tlsCert != "" || f.dpopKeyFile != "" {
		return ""
	}
	if path := f.setting("", "STS_ADMIN_SOCKET"); path != "" {
		return unixScheme + path
	}
	if info, err := os.Stat(defaultSocket); f.address() == "" && err == nil && info.Mode().Type() == os.ModeSocket {
		return unixScheme + defaultSocket
	}
	return ""
}

// maxReply holds a page of large resources, in bytes.
const maxReply = 64 << 20

// tlsConfig trusts the system's authorities, or those of --ca-file alone.
func (f *connFlags) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.caFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(f.caFile)
	if err != nil {
		return nil, badInput("reading --ca-file: %v", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, badInput("%s has no PEM certificate", f.caFile)
	}
	return config, nil
}

// isLoopback reports whether a connection to host stays on this machine.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// call connects, runs one call with the deadline of --timeout and turns its
// error into a failure.
func (c *cli) call(ctx context.Context, use func(context.Context, *grpc.ClientConn) error) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, c.conn.timeout)
	defer cancel()
	err = use(ctx, conn)
	if p := c.conn.proofs; p != nil && p.again(err) {
		err = use(ctx, conn) // refused before anything else was looked at
	}
	if err != nil {
		return c.refused(ctx, err)
	}
	return nil
}
