package main

import (
	"context"
	"encoding/hex"
	"errors"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

var (
	engines = map[string]logical.Factory{"transit": transit.Factory}
	methods = map[string]logical.Factory{"approle": approle.Factory, "cert": cert.Factory}
)

// openCore returns a core on the storage, without opening its seal.
func openCore(dir string, log hclog.Logger) (*vault.Core, error) {
	var store physical.Backend
	var err error
	if dir == "" {
		store, err = inmem.NewInmem(nil, log)
	} else {
		store, err = file.NewFileBackend(map[string]string{"path": dir}, log)
	}
	if err != nil {
		return nil, err
	}
	return vault.NewCore(&vault.CoreConfig{
		Physical:           store,
		LogicalBackends:    engines,
		CredentialBackends: methods,
		BuiltinRegistry:    registry{},
		DisableMlock:       true, // it would need a privilege
		Logger:             log,
	})
}

// secrets are what the first start on a storage makes, and what nobody can read
// from it later.
type secrets struct {
	RootToken string `json:"root_token,omitempty"`
	UnsealKey string `json:"unseal_key,omitempty"`
}

// initialize prepares new storage and opens its seal. Storage that was prepared
// before is left sealed, and there are no secrets then.
func initialize(ctx context.Context, core *vault.Core) (secrets, error) {
	switch done, err := core.Initialized(ctx); {
	case err != nil:
		return secrets{}, err
	case done:
		return secrets{}, nil
	}
	oneKey := &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}
	made, err := core.Initialize(ctx, &vault.InitParams{BarrierConfig: oneKey, RecoveryConfig: oneKey})
	if err != nil {
		return secrets{}, err
	}
	key := made.SecretShares[0]
	switch open, err := core.Unseal(key); {
	case err != nil:
		return secrets{}, err
	case !open:
		return secrets{}, errors.New("the key of the new storage does not open its seal")
	}
	return secrets{RootToken: made.RootToken, UnsealKey: hex.EncodeToString(key)}, nil
}

// registry tells the core's plugin catalogue what is compiled in.
type registry struct{}

func (registry) Contains(name string, kind consts.PluginType) bool {
	var in map[string]logical.Factory
	switch kind {
	case consts.PluginTypeSecrets:
		in = engines
	case consts.PluginTypeCredential:
		in = methods
	}
	_, ok := in[name]
	return ok
}

func (registry) Get(string, consts.PluginType) (func() (any, error), bool) { return nil, false }

func (registry) Keys(consts.PluginType) []string { return nil }

func (registry) DeprecationStatus(string, consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, true
}
