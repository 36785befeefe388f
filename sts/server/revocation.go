package server

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// revocations are the revocation lists of one look at the file.
type revocations struct {
	of map[string]*revocationList // by the DER of the authority
	// later are lists of authorities that are not configured: intermediate ones, which
	// clients bring along. By the DER of the name of the authority.
	later map[string][]*revocationList

	mu    sync.Mutex
	known map[string]*revocationList // by the DER of an intermediate authority; nil: it has none
}

// revocationList is the list of one authority.
type revocationList struct {
	*x509.RevocationList
	serials map[string]bool // in decimal
}

// maxIntermediates is for how many intermediate authorities it is remembered which
// list is theirs.
const maxIntermediates = 1024

// readRevocations reads the lists in a file. One that has the name of an authority
// must be signed by it: a list that nobody can check would say nothing. One of
// another name is of an intermediate authority, and checked when a client brings
// its certificate.
func readRevocations(name string, f file, authorities []*x509.Certificate) (*revocations, error) {
	if f.err != nil {
		return nil, fmt.Errorf("reading revocation lists: %w", f.err)
	}
	blocks, err := pemBlocks(f.data, "X509 CRL")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out := &revocations{of: map[string]*revocationList{}, later: map[string][]*revocationList{}, known: map[string]*revocationList{}}
	for i, der := range blocks {
		list, err := parseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("%s: list %d %w", name, i+1, err)
		}
		if err := out.add(list, authorities); err != nil {
			return nil, fmt.Errorf("%s: list %d %w", name, i+1, err)
		}
	}
	return out, nil
}

func parseRevocationList(der []byte) (*revocationList, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	for _, ext := range list.Extensions {
		if ext.Critical {
			return nil, fmt.Errorf("is of a kind that is not understood (extension %s); only whole lists of one authority are", ext.Id)
		}
	}
	if list.NextUpdate.IsZero() {
		return nil, errors.New("does not say when the next one comes")
	}
	out := &revocationList{list, make(map[string]bool, len(list.RevokedCertificateEntries))}
	for _, e := range list.RevokedCertificateEntries {
		out.serials[e.SerialNumber.String()] = true
	}
	return out, nil
}

// add finds out whose a list is.
func (r *revocations) add(list *revocationList, authorities []*x509.Certificate) error {
	named := slices.ContainsFunc(authorities, func(a *x509.Certificate) bool { return bytes.Equal(a.RawSubject, list.RawIssuer) })
	signers := signersOf(list.RevocationList, authorities)
	switch {
	case named && len(signers) == 0:
		return errors.New("is signed by none of the authorities of client certificates of its name")
	case !named:
		r.later[string(list.RawIssuer)] = append(r.later[string(list.RawIssuer)], list)
	}
	for _, signer := range signers {
		if _, twice := r.of[string(signer.Raw)]; twice {
			return errors.New("is the second of its authority; keep the newer one")
		}
		r.of[string(signer.Raw)] = list
	}
	return nil
}

// list returns the list of an authority that a chain leads through, nil if it has
// none.
func (r *revocations) list(authority *x509.Certificate) *revocationList {
	if list, ok := r.of[string(authority.Raw)]; ok || len(r.later[string(authority.RawSubject)]) == 0 {
		return list
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list, ok := r.known[string(authority.Raw)]
	if ok {
		return list
	}
	for _, l := range r.later[string(authority.RawSubject)] {
		// Of two lists the newer one counts: nobody could tell when they were read.
		if l.CheckSignatureFrom(authority) == nil && (list == nil || l.ThisUpdate.After(list.ThisUpdate)) {
			list = l
		}
	}
	if len(r.known) < maxIntermediates {
		r.known[string(authority.Raw)] = list
	}
	return list
}

func signersOf(list *x509.RevocationList, authorities []*x509.Certificate) []*x509.Certificate {
	seen := map[string]bool{}
	var out []*x509.Certificate
	for _, a := range authorities {
		if !seen[string(a.Raw)] && bytes.Equal(a.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(a) == nil {
			seen[string(a.Raw)] = true
			out = append(out, a)
		}
	}
	return out
}

// notRevoked returns nil if none of the certificates of these chains is listed,
// and the lists are what they should be by now.
func (a *authorities) notRevoked(chains [][]*x509.Certificate, now time.Time) error {
	if a.revoked == nil {
		return nil
	}
	for _, chain := range chains {
		for i := range len(chain) - 1 {
			list := a.revoked.list(chain[i+1])
			switch {
			case list == nil:
			case list.serials[chain[i].SerialNumber.String()]:
				return errors.New("the certificate, or one of its authorities, has been revoked")
			case !now.Before(list.NextUpdate):
				return errors.New("the revocation list of an authority should have been renewed by now, so none of its certificates count; put the new one into crl_file")
			}
		}
	}
	return nil
}
