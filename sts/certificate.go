package sts

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"slices"
	"time"
)

// checkUse tells whether a certificate may be used now by a client that holds its
// key. Who has issued it is not looked at.
func checkUse(c *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(c.NotBefore):
		return &mismatch{RecordReason: certificateReason("not_before", clock(c.NotBefore), "not after "+clock(now))}
	case !now.Before(c.NotAfter):
		return &mismatch{RecordReason: certificateReason("not_after", clock(c.NotAfter), "after "+clock(now))}
	case len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 &&
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny):
		return errors.New("the certificate is not for clients: its extended key usage lacks clientAuth")
	}
	return CheckCertificateStrength(c)
}

// CheckCertificateStrength refuses a certificate whose key or signature could be
// forged: RSA below 2,048 bits or above 8,192, curves that TLS does not have, and
// signatures over MD5 or SHA-1.
func CheckCertificateStrength(c *x509.Certificate) error {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 8192 {
			return errors.New("the RSA key of a certificate has fewer than 2048 bits, or more than 8192")
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return errors.New("the EC key of a certificate has fewer than 256 bits")
		}
	case ed25519.PublicKey:
	default:
		return errors.New("the key of a certificate is none of RSA, EC and Ed25519")
	}
	switch c.SignatureAlgorithm {
	case x509.UnknownSignatureAlgorithm, x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.DSAWithSHA256, x509.ECDSAWithSHA1:
		return errors.New("the signature of a certificate is of an algorithm that can be forged, such as SHA-1")
	}
	return nil
}

// svid returns the SPIFFE ID of a certificate that is an X.509-SVID of a workload
// [X509-SVID §4, §5.2].
func svid(c *x509.Certificate) (SPIFFEID, error) {
	uris, err := sanURIs(c)
	if err != nil {
		return SPIFFEID{}, err
	}
	if len(uris) != 1 {
		return SPIFFEID{}, errors.New("the certificate is no X.509-SVID: it must have exactly one URI among its subject alternative names")
	}
	id, err := ParseSPIFFEID(uris[0])
	switch {
	case err != nil:
		return SPIFFEID{}, err
	case id.Path() == "":
		return SPIFFEID{}, errors.New("the SPIFFE ID of the certificate has no path: it is a trust domain's, not a workload's")
	case c.IsCA:
		return SPIFFEID{}, errors.New("the certificate is an authority's, not a workload's")
	case c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return SPIFFEID{}, errors.New("the key usage of the certificate lacks digitalSignature")
	case c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return SPIFFEID{}, errors.New("the key usage of the certificate has keyCertSign or cRLSign, which no workload's has")
	}
	return id, nil
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// sanURIs returns the URIs among the subject alternative names, byte by byte as
// the issuer signed them: the library has them parsed, and a URI that was parsed
// may be written in another way.
func sanURIs(c *x509.Certificate) ([]string, error) {
	const tagURI = 6 // uniformResourceIdentifier [RFC 5280 §4.2.1.6]
	bad := errors.New("the subject alternative names of the certificate are not well-formed")
	var uris []string
	for _, ext := range c.Extensions {
		if !ext.Id.Equal(oidSubjectAltName) {
			continue
		}
		var names asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &names); err != nil || len(rest) > 0 || !names.IsCompound || names.Tag != asn1.TagSequence || names.Class != asn1.ClassUniversal {
			return nil, bad
		}
		for rest := names.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return nil, bad
			}
			if name.Class == asn1.ClassContextSpecific && name.Tag == tagURI {
				uris = append(uris, string(name.Bytes))
			}
		}
	}
	return uris, nil
}

// thumbprint names a certificate, as x5t#S256 does [RFC 8705 §3.1].
func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func certificateReason(what, presented, expected string) RecordReason {
	return RecordReason{Predicate: "client_certificate." + what, Presented: presented, Expected: expected}
}
