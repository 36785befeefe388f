package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/workload-sts/sts/sts"
)

// AdminConfig says who may use the admin interface, besides bearers of tokens of
// this service for it.
type AdminConfig struct {
	// Clients may by their TLS certificates.
	Clients []AdminClient
	// UIDs and GIDs may by the admin socket. The user of this process and root may
	// in any case.
	UIDs, GIDs []int64
	// TokenFile has a secret whose bearer may do everything. It is read at each
	// use, so that it ends with the file. Empty: there is none.
	TokenFile string
}

// AdminClient is an administrator by certificate.
type AdminClient struct {
	Name   sts.CertificateName
	Label  string // for records
	Access sts.Access
}

// caller is who calls the admin interface, or why that is not known.
type caller struct {
	principal sts.Principal
	access    sts.Access
	err       error
}

// admins finds out who calls.
type admins struct {
	AdminConfig
	service *sts.Service
	proofs  proofURLs
}

// identify returns who calls. What the request itself has, a token, decides alone:
// a caller who sends one means it. Without one, the connection does: the admin
// socket, or a certificate.
func (a *admins) identify(ctx context.Context, k *call) *caller {
	md, _ := metadata.FromIncomingContext(ctx)
	return a.identifyBy(ctx, k, md.Get("authorization"), md.Get(metadataProof), sts.ProofTarget{Method: "POST", URI: a.proofs.of(k)})
}

// identifyBy takes the values of the headers, and what a DPoP proof must be for.
func (a *admins) identifyBy(ctx context.Context, k *call, authorization, proofs []string, target sts.ProofTarget) *caller {
	from := k.source(ctx)
	if len(authorization) > 0 {
		return a.byToken(ctx, k, from, authorization, proofs, target)
	}
	if p, ok := peer.FromContext(ctx); ok {
		if s, ok := p.Addr.(*socketPeer); ok {
			return a.bySocket(s)
		}
	}
	for _, c := range a.Clients {
		p := k.certificates()
		if c.Name.Proves(p.chain, p.verified, time.Now()) == nil {
			return &caller{principal: sts.Principal{Name: c.Label, Method: "certificate", Peer: from.Peer}, access: c.Access}
		}
	}
	return unknownCaller("the admin interface needs a token of this service for it, as authorization: Bearer TOKEN, a client certificate that the configuration names, or the admin socket")
}

func (a *admins) bySocket(s *socketPeer) *caller {
	if s.err != nil {
		return &caller{err: &sts.Error{Code: sts.Unauthenticated, Message: "it cannot be told which user called over the admin socket", Err: s.err}}
	}
	uid, gid := int64(s.uid), int64(s.gid)
	if uid != 0 && uid != int64(os.Geteuid()) && !slices.Contains(a.UIDs, uid) && !slices.Contains(a.GIDs, gid) {
		return unknownCaller("the user and group of the caller may not use the admin socket; see admin.socket of the configuration")
	}
	return &caller{principal: sts.Principal{Name: fmt.Sprintf("uid:%d", s.uid), Method: "socket", Peer: socketPeerName}, access: sts.WriteAccess}
}

func (a *admins) byToken(ctx context.Context, k *call, from sts.Source, authorization, proofs []string, target sts.ProofTarget) *caller {
	use, err := tokenUse(k, from.Peer, authorization, proofs, target)
	if err != nil {
		return &caller{err: err}
	}
	if use.Scheme == sts.SchemeBearer && strings.HasPrefix(use.Token, sts.SecretPrefix) {
		return a.byTokenFile(from, use.Token)
	}
	p, access, err := a.service.AuthorizeAdmin(ctx, use)
	if e, ok := errors.AsType[*sts.Error](err); ok {
		k.nonce = e.Nonce
		if e.Code == sts.InvalidDPoPProof || e.Code == sts.UseDPoPNonce {
			// [RFC 9449 §7.1, §9]
			err = &refusal{sts: e, grpc: codes.Unauthenticated, http: 401}
		}
	}
	return &caller{principal: p, access: access, err: err}
}

// tokenUse reads the token that a request is authorized by, if there is one. What is
// proven besides, and by what, is not looked at.
func tokenUse(k *call, peer string, authorization, proofs []string, target sts.ProofTarget) (sts.TokenUse, error) {
	const how = "send one token as authorization: Bearer TOKEN, once"
	use := sts.TokenUse{ProofTarget: target, Source: sts.Source{RequestID: k.requestID, Peer: peer}}
	switch len(authorization) {
	case 0:
		return use, nil
	case 1:
	default:
		return use, &sts.Error{Code: sts.Unauthenticated, Message: "more than one authorization; " + how}
	}
	scheme, token, ok := strings.Cut(authorization[0], " ")
	switch {
	case ok && strings.EqualFold(scheme, sts.SchemeBearer):
		use.Scheme = sts.SchemeBearer
	case ok && strings.EqualFold(scheme, sts.SchemeDPoP):
		use.Scheme = sts.SchemeDPoP
	default:
		return use, &sts.Error{Code: sts.Unauthenticated, Message: "the authorization is of another scheme than Bearer and DPoP; " + how}
	}
	use.Certificates = k.certificates().chain
	switch {
	case len(token) > maxToken:
		return use, &sts.Error{Code: sts.Unauthenticated, Message: fmt.Sprintf("the access token is longer than %d characters", maxToken)}
	case len(proofs) > 1: // [RFC 9449 §4.3 item 1]
		return use, &refusal{sts: &sts.Error{Code: sts.InvalidDPoPProof, Message: "more than one DPoP header; a request has one proof"}, grpc: codes.Unauthenticated, http: 401}
	case len(proofs) == 1:
		use.Proof = proofs[0]
	}
	use.Token = token
	return use, nil
}

// byTokenFile compares with the secret of the file.
func (a *admins) byTokenFile(from sts.Source, token string) *caller {
	wrong := func(err error) *caller {
		return &caller{err: &sts.Error{Code: sts.Unauthenticated, Message: "the admin token is wrong, or there is none any more", Err: err}}
	}
	if a.TokenFile == "" {
		return wrong(errors.New("no admin.token_file is configured"))
	}
	secret, err := readAdminToken(a.TokenFile)
	if err != nil {
		return wrong(err)
	}
	x, y := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(x[:], y[:]) != 1 {
		return wrong(nil)
	}
	return &caller{principal: sts.Principal{Name: "admin token", Method: "token_file", Peer: from.Peer}, access: sts.WriteAccess}
}

// readAdminToken returns the secret in a file, which must be one that cannot be
// guessed, and that only its owner can read.
func readAdminToken(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s can be read or written by others (mode %04o); make it private with `chmod 600`", file, info.Mode().Perm())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if _, err := sts.HashSecret(secret); err != nil || !strings.HasPrefix(secret, sts.SecretPrefix) {
		return "", fmt.Errorf("%s does not have one secret alone, which begins with %s; write it with `stsctl secret new -o json | jq -r .secret`", file, sts.SecretPrefix)
	}
	return secret, nil
}

// CheckAdminToken says what is wrong with the file of an admin token.
func CheckAdminToken(file string) error {
	_, err := readAdminToken(file)
	return err
}

func unknownCaller(message string) *caller {
	return &caller{err: &sts.Error{Code: sts.Unauthenticated, Message: message}}
}

// certificates are those of the caller; none if the wire does not know.
func (k *call) certificates() presented {
	if k.presented == nil {
		return presented{}
	}
	return k.presented()
}
