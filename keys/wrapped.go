package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/workload-sts/sts/keys/vault"
)

// kindWrapped is the provider of keys that are encrypted by a key in Vault.
const kindWrapped = "vault-wrapped"

// Wrapped returns the provider of keys that are made by this process and
// encrypted in the store by a transit key. They are decrypted once, when they are
// opened: after that they sign without Vault, at the speed of local keys, and are
// in the memory of this process as those are.
func Wrapped(k *vault.Key) Provider {
	return sealed{name: kindWrapped, needs: needsVault, box: transitBox{k}}
}

// needsVault is the dependency of providers that need Vault.
const needsVault = "vault"

// transitBox encrypts with a transit key.
type transitBox struct{ key *vault.Key }

func (b transitBox) String() string { return b.key.String() }

func (b transitBox) seal(ctx context.Context, plaintext, bound []byte, first bool) ([]byte, error) {
	if first {
		if err := b.fit(ctx); err != nil {
			return nil, err
		}
	}
	ciphertext, err := b.key.Encrypt(ctx, plaintext, bound)
	return []byte(ciphertext), vaultError(err)
}

// wrappingTypes are the types of transit keys that bind a ciphertext to what it is
// for.
var wrappingTypes = []string{"aes128-gcm96", "aes256-gcm96", "chacha20-poly1305"}

// fit tells why nothing should be encrypted with the key. What was encrypted with it
// before stays in use.
func (b transitBox) fit(ctx context.Context) error {
	info, err := b.key.Info(ctx)
	if e, ok := errors.AsType[*vault.Error](err); ok && e.Kind == vault.NoKey {
		return fmt.Errorf("vault has no key %s: make it with `vault write -f %s type=aes256-gcm96`", b.key, b.key)
	}
	if err != nil {
		return vaultError(err)
	}
	if !slices.Contains(wrappingTypes, info.Type) {
		return fmt.Errorf("%s is of type %s, and signing keys are encrypted with one of %s: name another key", b.key, info.Type, strings.Join(wrappingTypes, ", "))
	}
	if bad := dangers(b.key, info); len(bad) > 0 {
		return fmt.Errorf("the key is not fit to encrypt signing keys: %s", strings.Join(bad, "; "))
	}
	return nil
}

func (b transitBox) open(ctx context.Context, ciphertext, bound []byte) ([]byte, error) {
	plaintext, err := b.key.Decrypt(ctx, string(ciphertext), bound)
	if e, ok := errors.AsType[*vault.Error](err); ok && e.Kind == vault.Refused {
		return nil, fmt.Errorf("%s does not decrypt it: it is another key than it was encrypted with; nothing was changed: %w", b.key, err)
	}
	return plaintext, vaultError(err)
}

// vaultError says of trouble with Vault that may pass that it may. What Vault
// refuses as wrong stays an error for good.
func vaultError(err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*vault.Error](err)
	if ok && e.Kind == vault.Refused {
		return err
	}
	u := &unavailable{what: needsVault, after: time.Second, reason: err}
	if ok {
		u.after = max(u.after, e.RetryAfter)
	}
	return u
}
