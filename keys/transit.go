package keys

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/keys/vault"
)

// kindVault is the provider of keys that never leave Vault.
const kindVault = "vault"

// VaultOptions says how signatures are made with a key in Vault.
type VaultOptions struct {
	Batching vault.Batching
	// VerifyOneIn verifies one in so many signatures before it is used; 0 and 1
	// verify each. The first of every key is verified in any case.
	VerifyOneIn int
}

// Vault returns the provider of keys that are the versions of a transit key. It
// never makes a transit key: an operator does, once. A version that somebody else
// makes is taken over like one of its own.
func Vault(k *vault.Key, o VaultOptions) Provider { return transit{k, o} }

type transit struct {
	key *vault.Key
	o   VaultOptions
}

// transitKey is the material of a key in Vault.
type transitKey struct {
	Key     string `json:"key"` // such as transit/keys/sts
	Version int    `json:"version"`
}

func (transit) kind() string       { return kindVault }
func (transit) dependency() string { return needsVault }

func (transit) location(k storedKey) string {
	m, err := readTransitKey(k)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s version %d", m.Key, m.Version)
}

func readTransitKey(k storedKey) (m transitKey, err error) {
	if err := json.Unmarshal(k.Material, &m); err != nil || m.Version < 1 {
		return m, fmt.Errorf("key %s of key set %q does not say which version in Vault it is", k.ID, k.Set)
	}
	return m, nil
}

// create makes a version. That it was made is told by what Vault has afterwards,
// not by the answer. None is made that the set cannot use: it would be made again
// and again.
func (p transit) create(ctx context.Context, s SetConfig, known []storedKey) (storedKey, error) {
	info, err := p.key.Info(ctx)
	if err != nil {
		return storedKey{}, vaultError(err)
	}
	if err := p.fits(s, info); err != nil {
		return storedKey{}, err
	}
	err = p.key.Rotate(ctx)
	if e, ok := errors.AsType[*vault.Error](err); ok && e.Kind == vault.Denied {
		err = fmt.Errorf("%w: allow update on %s/rotate, or let Vault rotate (auto_rotate_period) or somebody else: what they make is taken over", err, p.key)
	}
	if err != nil {
		return storedKey{}, vaultError(err)
	}
	if info, err = p.key.Info(ctx); err != nil {
		return storedKey{}, vaultError(err)
	}
	k, err := p.newest(s, info)
	if err != nil {
		return k, err
	}
	for _, old := range known {
		if old.ID == k.ID {
			return k, fmt.Errorf("%s was rotated and its latest version is still %d", p.key, info.Latest)
		}
	}
	return k, nil
}

// newest is the latest version as a key of the set.
func (p transit) newest(s SetConfig, info vault.Info) (storedKey, error) {
	return newStoredKey(s.Name, kindVault, s.Algorithm, info.Versions[info.Latest].PublicKey, transitKey{p.key.String(), info.Latest})
}

func (p transit) inspect(ctx context.Context, s SetConfig, known []placed) (report, error) {
	info, err := p.key.Info(ctx)
	if e, ok := errors.AsType[*vault.Error](err); ok && e.Kind == vault.NoKey {
		return p.missing(s, known)
	}
	if err != nil {
		return report{}, vaultError(err)
	}
	if err := p.fits(s, info); err != nil {
		return report{}, err
	}
	r := report{unusable: map[string]error{}, warnings: dangers(p.key, info)}
	if len(known) == 0 && len(r.warnings) > 0 {
		// Later it is a warning: what has been signed with goes on.
		return report{}, fmt.Errorf("the key is not fit to sign tokens: %s", strings.Join(r.warnings, "; "))
	}
	r.warnings = append(r.warnings, p.excess(ctx)...)
	newest, err := p.newest(s, info)
	if err != nil || !info.Signs(info.Latest) {
		return r, errors.Join(err, p.disabled(info, info.Latest))
	}
	r.newer = &newest
	for _, k := range known {
		if k.ID == newest.ID {
			r.newer = nil
		}
		if k.role != Next && k.role != Current {
			continue
		}
		if err := p.usable(k.storedKey, info); err != nil {
			r.unusable[k.ID] = err
		}
	}
	return r, nil
}

// transitTypes are the types of transit keys, by what they begin with.
var transitTypes = map[jose.Algorithm]string{
	jose.ES256: "ecdsa-p256",
	jose.ES384: "ecdsa-p384",
	jose.EdDSA: "ed25519",
	jose.RS256: "rsa-",
	jose.PS256: "rsa-",
}

// fits tells why a transit key is none for the algorithm of a set.
func (p transit) fits(s SetConfig, info vault.Info) error {
	if want := transitTypes[s.Algorithm]; !strings.HasPrefix(info.Type, want) {
		return fmt.Errorf("%s is of type %s, and algorithm %s needs %s: name another key, or the algorithm that fits", p.key, info.Type, s.Algorithm, want)
	}
	return nil
}

// missing is the report of a transit key that is not there. It is not made anew:
// whoever deleted it should say so.
func (p transit) missing(s SetConfig, known []placed) (report, error) {
	r := report{unusable: map[string]error{}}
	if len(known) == 0 {
		typ := transitTypes[s.Algorithm]
		if typ == "rsa-" {
			typ += "2048"
		}
		return r, fmt.Errorf("vault has no key %s: make it with `vault write -f %s type=%s`", p.key, p.key, typ)
	}
	for _, k := range known {
		if k.role == Next || k.role == Current {
			r.unusable[k.ID] = fmt.Errorf("vault has no key %s any more: restore it from a backup, or make a new one and revoke key %s, which it replaces", p.key, k.ID)
		}
	}
	return r, nil
}

// usable tells why Vault, or we, will not sign with a key any more.
func (p transit) usable(k storedKey, info vault.Info) error {
	m, err := readTransitKey(k)
	if err != nil {
		return err
	}
	if err := p.disabled(info, m.Version); err != nil {
		return err
	}
	public, err := k.publicKey()
	if err != nil {
		return err
	}
	if have, ok := info.Versions[m.Version].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !have.Equal(public.Public) {
		return fmt.Errorf("version %d of %s is another key than it was: somebody has deleted it and made it anew; the new one is announced and will sign, or revoke key %s and it signs at once", m.Version, p.key, k.ID)
	}
	return nil
}

func (p transit) disabled(info vault.Info, version int) error {
	if info.Signs(version) {
		return nil
	}
	return fmt.Errorf("version %d of %s cannot sign any more: it was trimmed or disabled (min_available_version %d, min_decryption_version %d, min_encryption_version %d, latest %d); lower the bound, or revoke the key",
		version, p.key, info.MinAvailable, info.MinDecryption, info.MinEncryption, info.Latest)
}

// dangers is what somebody may do with the key that nobody should.
func dangers(key *vault.Key, info vault.Info) []string {
	var out []string
	for _, d := range []struct {
		is   bool
		what string
	}{
		{info.Exportable, "its private key can be exported (exportable=true), and that cannot be undone: make another key"},
		{info.PlaintextBackup, "its private key can be read from a backup (allow_plaintext_backup=true), and that cannot be undone: make another key"},
		{info.Derived, "it is derived (derived=true) and so another key in each context: make another key without"},
		{info.DeletionAllowed, fmt.Sprintf("it can be deleted: `vault write %s/config deletion_allowed=false`", key)},
	} {
		if d.is {
			out = append(out, fmt.Sprintf("%s: %s", key, d.what))
		}
	}
	return out
}

// excess is what our own token may do with the key beyond what it needs.
func (p transit) excess(ctx context.Context) []string {
	broader, err := p.key.Capabilities(ctx)
	if err != nil || len(broader) == 0 {
		return nil // it may not be allowed to ask
	}
	return []string{fmt.Sprintf("the token of this server may do more with %s than it needs: %s", p.key, strings.Join(broader, ", "))}
}

func (p transit) open(_ context.Context, k storedKey) (signer, error) {
	m, err := readTransitKey(k)
	if err != nil {
		return nil, err
	}
	if m.Key != p.key.String() {
		return nil, fmt.Errorf("key %s of key set %q is a version of %s, and the configuration says %s: give the other key a set with a name of its own, and let the Audiences name it", k.ID, k.Set, m.Key, p.key)
	}
	public, err := k.publicKey()
	if err != nil {
		return nil, err
	}
	return &vaultSigner{Signer: p.key.Signer(m.Version, k.Algorithm, p.o.Batching), vault: p.key, key: public, verifyOneIn: int64(max(1, p.o.VerifyOneIn))}, nil
}

// vaultSigner signs with a version of a transit key, and does not believe what
// comes back before it has verified it: each signature, or one in so many.
type vaultSigner struct {
	*vault.Signer
	vault       *vault.Key
	key         jose.Key
	verifyOneIn int64
	made        atomic.Int64
	rejected    atomic.Uint64
}

func (s *vaultSigner) Sign(ctx context.Context, input []byte) ([]byte, error) {
	sig, err := s.Signer.Sign(ctx, input)
	if err != nil {
		return nil, noSignature(err)
	}
	if (s.made.Add(1)-1)%s.verifyOneIn != 0 {
		return sig, nil
	}
	if err := jose.Verify(s.key.Algorithm, s.key.Public, input, sig); err != nil {
		s.rejected.Add(1)
		return nil, &unavailable{what: needsVault, after: time.Second, reason: fmt.Errorf("vault has answered with a signature that is not one of key %s: %w", s.key.ID, err)}
	}
	return sig, nil
}

// Err implements signer.
func (s *vaultSigner) Err() error {
	err := s.Signer.Err()
	if err == nil {
		err = s.vault.Err()
	}
	if err != nil {
		return noSignature(err)
	}
	return nil
}

// noSignature says what is missing for a signature, and when to ask again.
func noSignature(err error) error {
	u := &unavailable{what: needsVault, after: time.Second, reason: err}
	if e, ok := errors.AsType[*vault.Unavailable](err); ok {
		u.after = max(u.after, e.RetryAfter)
	}
	return u
}
