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

// proofs makes DPoP proofs for calls of the token service [RFC 9449 §4].
type proofs struct {
	key privateKey
	url string // scheme and address of the server
	now func() time.Time
}

// proofFlag adds the flag of commands that can get bound tokens.
func (c *cli) proofFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.conn.dpopKeyFile, "dpop-key", "", "bind the token to the private key in this PEM `FILE` by DPoP; it is made if it is missing")
}

// intercept sends a proof with a call, and a second one if the server wants its
// nonce in it.
func (p *proofs) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var header metadata.MD
	opts = append(opts, grpc.Header(&header))
	call := func(nonce string) error {
		proof, err := p.proof(method, req, nonce)
		if err != nil {
			return err
		}
		return invoke(metadata.AppendToOutgoingContext(ctx, "dpop", proof), method, req, reply, conn, opts...)
	}
	err := call("")
	info, _ := detailsOf(status.Convert(err))
	if nonce := header.Get("dpop-nonce"); info.GetReason() == "use_dpop_nonce" && len(nonce) == 1 {
		return call(nonce[0])
	}
	return err
}

// proof is for one call of a method. It names the token that is exchanged, which
// may be bound to the key.
func (p *proofs) proof(method string, req any, nonce string) (string, error) {
	claims := struct {
		ID     string `json:"jti"`
		Method string `json:"htm"`
		URL    string `json:"htu"`
		Time   int64  `json:"iat"`
		Nonce  string `json:"nonce,omitempty"`
		Token  string `json:"ath,omitempty"`
	}{rand.Text(), "POST", p.url + method, p.now().Unix(), nonce, ""}
	if m, ok := req.(*stsv1.ExchangeTokenRequest); ok {
		sum := sha256.Sum256([]byte(m.GetSubjectToken()))
		claims.Token = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	encoded, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	return jose.SignProof(p.key.alg, p.key.signer, encoded)
}

// readProofKey reads a private key, and makes one if there is no file.
func readProofKey(file string) (privateKey, error) {
	const flag = "--dpop-key"
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
