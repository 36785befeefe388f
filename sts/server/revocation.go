package server

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// revocations is the revocation list of one authority.
type revocations struct {
	until   time.Time       // when there should have been another
	serials map[string]bool // in decimal
}

// readRevocations reads the lists in a file. Each must be signed by one of the
// authorities: a list that nobody can check would say nothing.
func readRevocations(name string, f file, authorities []*x509.Certificate) (map[string]revocations, error) {
	if f.err != nil {
		return nil, fmt.Errorf("reading revocation lists: %w", f.err)
	}
	blocks, err := pemBlocks(f.data, "X509 CRL")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out := map[string]revocations{}
	for i, der := range blocks {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("%s: list %d: %w", name, i+1, err)
		}
		for _, ext := range list.Extensions {
			if ext.Critical {
				return nil, fmt.Errorf("%s: list %d is of a kind that is not understood (extension %s); only whole lists of one authority are", name, i+1, ext.Id)
			}
		}
		if list.NextUpdate.IsZero() {
			return nil, fmt.Errorf("%s: list %d does not say when the next one comes", name, i+1)
		}
		signers := signersOf(list, authorities)
		if len(signers) == 0 {
			return nil, fmt.Errorf("%s: list %d is signed by none of the authorities of client certificates", name, i+1)
		}
		r := revocations{until: list.NextUpdate, serials: make(map[string]bool, len(list.RevokedCertificateEntries))}
		for _, e := range list.RevokedCertificateEntries {
			r.serials[e.SerialNumber.String()] = true
		}
		for _, signer := range signers {
			if _, twice := out[string(signer.Raw)]; twice {
				return nil, fmt.Errorf("%s: list %d is the second of its authority; keep the newer one", name, i+1)
			}
			out[string(signer.Raw)] = r
		}
	}
	return out, nil
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
	for _, chain := range chains {
		for i := range len(chain) - 1 {
			list, ok := a.revoked[string(chain[i+1].Raw)]
			switch {
			case !ok:
			case list.serials[chain[i].SerialNumber.String()]:
				return errors.New("the certificate, or one of its authorities, has been revoked")
			case !now.Before(list.until):
				return errors.New("the revocation list of an authority should have been renewed by now, so none of its certificates count; put the new one into crl_file")
			}
		}
	}
	return nil
}
