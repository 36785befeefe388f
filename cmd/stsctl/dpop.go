package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
)

// proofs makes DPoP proofs for calls [RFC 9449 §4]. It is used by one call after the
// other.
type proofs struct {
	key   privateKey
	url   string // scheme and address of the server
	token string // that the calls are authorized by; empty: they are requests for tokens
	nonce string // that the server gave last
	now   func() time.Time
}

// proofFlag adds the flag of commands that can get bound tokens.
func (c *cli) proofFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.conn.dpopKeyFile, "dpop-key", "", "bind the token to the private key in this PEM `FILE` by DPoP; it is made if it is missing")
}

// boundFlag adds the flag of commands for operators.
func (f *connFlags) boundFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dpopKeyFile, "dpop-key", "", "PEM `FILE` with the private key that the admin token is bound to by DPoP")
}

// intercept sends a proof with a call.
func (p *proofs) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, err := p.with(ctx, method, req)
	if err != nil {
		return err
	}
	var header metadata.MD
	err = invoke(ctx, method, req, reply, conn, append(opts, grpc.Header(&header))...)
	p.learn(header)
	return err
}

// interceptStream sends a proof with the beginning of a stream.
func (p *proofs) interceptStream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, begin grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, err := p.with(ctx, method, nil)
	if err != nil {
		return nil, err
	}
	stream, err := begin(ctx, desc, conn, method, opts...)
	return &proofStream{stream, p}, err
}

// proofStream learns the nonce of an answer.
type proofStream struct {
	grpc.ClientStream
	proofs *proofs
}

func (s *proofStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if header, failed := s.Header(); failed == nil {
		s.proofs.learn(header)
	}
	return err
}

// again tells whether a call failed for nothing but that its proof did not have the
// nonce that there is now.
func (p *proofs) again(err error) bool {
	info, _ := detailsOf(status.Convert(err))
	return info.GetReason() == "use_dpop_nonce" && p.nonce != ""
}

func (p *proofs) learn(header metadata.MD) {
	if nonce := header.Get("dpop-nonce"); len(nonce) == 1 {
		p.nonce = nonce[0]
	}
}

func (p *proofs) with(ctx context.Context, method string, req any) (context.Context, error) {
	proof, err := p.proof(method, req)
	return metadata.AppendToOutgoingContext(ctx, "dpop", proof), err
}

// proof is for one call of a method. It names the token that authorizes the call, or
// that is exchanged: it may be bound to the key.
func (p *proofs) proof(method string, req any) (string, error) {
	claims := struct {
		ID     string `json:"jti"`
		Method string `json:"htm"`
		URL    string `json:"htu"`
		Time   int64  `json:"iat"`
		Nonce  string `json:"nonce,omitempty"`
		Token  string `json:"ath,omitempty"`
	}{rand.Text(), "POST", p.url + method, p.now().Unix(), p.nonce, ""}
	token := p.token
	if m, ok := req.(*stsv1.ExchangeTokenRequest); ok {
		token = m.GetSubjectToken()
	}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		claims.Token = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	encoded, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	return jose.SignProof(p.key.alg, p.key.signer, encoded)
}

// readProofKey reads a private key. If there is no file it makes one, if it may.
func readProofKey(file string, may bool) (privateKey, error) {
	const flag = "--dpop-key"
	if !may {
		return readPrivateKey(flag, file, "")
	}
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := makeProofKey(file); err != nil {
			return privateKey{}, badInput("%s: %v", flag, err)
		}
	}
	return readPrivateKey(flag, file, "; name a file that does not exist to have one made")
}

// makeProofKey writes a new key, which nobody else may read. A file that has come
// to be in between is left alone.
func makeProofKey(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
