package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/keys"
	"github.com/workload-sts/sts/keys/vault"
	"github.com/workload-sts/sts/sts"
)

// openKeys opens the signing keys, and the connection to Vault if they need one.
func (n *node) openKeys(ctx context.Context, c *stsv1.ServerConfig, store keys.Store, createKeyFile bool) (*keys.Ring, error) {
	var client *vault.Client
	if slices.ContainsFunc(c.Keys.Sets, func(s *stsv1.KeySetConfig) bool { return s.GetLocal() == nil }) {
		at := vaultConfig(c.Keys.Vault)
		at.Log = n.log
		var err error
		if client, err = vault.Open(at); err != nil {
			return nil, fmt.Errorf("vault: %w", err)
		}
		n.closers = append(n.closers, func() error { client.Close(); return nil })
	}
	config := keys.Config{Now: clock, Store: store, Schedule: schedule(c.Rotation), Log: n.log}
	for _, s := range c.Keys.Sets {
		set := keys.SetConfig{Name: s.Name, Algorithm: jose.Algorithm(s.Algorithm)}
		switch p := s.Provider.(type) {
		case *stsv1.KeySetConfig_Local:
			set.Provider = keys.Local(p.Local.KeyFile, createKeyFile)
		case *stsv1.KeySetConfig_Vault:
			set.Provider = keys.Vault(client.Key(p.Vault.Mount, p.Vault.Key), vaultOptions(c.Keys.Vault))
		case *stsv1.KeySetConfig_VaultWrapped:
			set.Provider = keys.Wrapped(client.Key(p.VaultWrapped.Mount, p.VaultWrapped.Key))
		}
		config.Sets = append(config.Sets, set)
	}
	ring, err := keys.Open(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("opening the signing keys: %w", err)
	}
	n.closers = append(n.closers, func() error { ring.Close(); return nil })
	return ring, nil
}

// vaultOptions expects its defaults to be filled in.
func vaultOptions(c *stsv1.VaultConfig) keys.VaultOptions {
	return keys.VaultOptions{
		VerifyOneIn: int(c.VerifyOneIn),
		Batching: vault.Batching{
			Size: int(c.Batch.Size), Calls: int(c.Batch.Calls), Delay: c.Batch.Delay.AsDuration(), Queue: int(c.Batch.Queue),
			Timeout: c.Timeout.AsDuration(),
		},
	}
}

// signingKeys fits the ring of keys, which knows nothing of the domain, to what
// the domain asks for.
type signingKeys struct{ *keys.Ring }

func (k signingKeys) Status() []sts.KeySetStatus {
	var out []sts.KeySetStatus
	for _, s := range k.Ring.Status() {
		set := sts.KeySetStatus{
			Name: s.Name, Algorithm: s.Algorithm, Provider: s.Provider, RotationDue: s.RotationDue, Problems: s.Problems,
		}
		for _, key := range s.Keys {
			set.Keys = append(set.Keys, keyStatus(key))
		}
		out = append(out, set)
	}
	return out
}

func (k signingKeys) Rotate(ctx context.Context, set string) (sts.KeyStatus, error) {
	key, err := k.Ring.Rotate(ctx, set)
	return keyStatus(key), forCaller(err)
}

func (k signingKeys) Revoke(ctx context.Context, kid string) (sts.KeyRevocation, error) {
	done, err := k.Ring.Revoke(ctx, kid)
	return sts.KeyRevocation{
		Revoked: keyStatus(done.Revoked), Successor: keyStatus(done.Successor), AcceptedUntil: done.AcceptedUntil,
	}, forCaller(err)
}

// forCaller says what is the caller's to know about an error of the ring.
func forCaller(err error) error {
	switch {
	case errors.Is(err, keys.ErrUnknownSet):
		return &sts.Error{Code: sts.NotFound, Message: "there is no key set of this name", Err: err}
	case errors.Is(err, keys.ErrUnknownKey):
		return &sts.Error{Code: sts.NotFound, Message: "there is no signing key of this id", Err: err}
	default:
		return err
	}
}

func keyStatus(k keys.KeyStatus) sts.KeyStatus {
	return sts.KeyStatus{
		Set: k.Set, KID: k.KID, Algorithm: k.Algorithm, Role: sts.KeyRole(k.Role), Location: k.Location,
		Published: k.Published, Signs: k.Signs, Ends: k.Ends, Revoked: k.Revoked,
		Verifiers: k.Verifiers, Fetches: k.Fetches, LastFetch: k.LastFetch,
	}
}
