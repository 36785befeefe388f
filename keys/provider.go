package keys

import (
	"context"
	"errors"
)

// Provider has the private keys of a set: [Local], [Wrapped] or [Vault].
type Provider interface {
	// kind is the name of the provider in the state and in reports.
	kind() string
	// dependency names what is missing when the keys cannot be used.
	dependency() string
	// location says where the private key is, for operators.
	location(k storedKey) string
	// create makes the key of a set that comes after those known.
	create(ctx context.Context, s SetConfig, known []storedKey) (storedKey, error)
	// inspect tells what has become of the keys without our doing.
	inspect(ctx context.Context, s SetConfig, known []placed) (report, error)
	// open returns what signs with a key. An error with a Dependency may pass.
	open(ctx context.Context, k storedKey) (signer, error)
}

// signer signs with one key. It can be used concurrently.
type signer interface {
	// Sign returns a signature in JOSE form.
	Sign(ctx context.Context, input []byte) ([]byte, error)
	// Err returns nil, or why it cannot sign now.
	Err() error
	// Close ends it; what is asked afterwards fails.
	Close()
}

// report is what a provider found.
type report struct {
	newer    *storedKey       // a key of the provider that is not among those known
	unusable map[string]error // by kid: keys that the provider will not sign with
	warnings []string         // what an operator should change
}

// problem is a place for one thing that is wrong with a set, so that it goes when
// it is mended.
type problem int

const (
	problemOpen    problem = iota // a private key cannot be used
	problemInspect                // the provider cannot be asked
	problemCreate                 // the next key cannot be made
)

// problems is what is wrong with a set at the moment.
type problems struct {
	errs     [problemCreate + 1]error
	warnings []string
}

func (p *problems) of(what problem) error {
	if err := p.errs[what]; err != nil {
		return err
	}
	return errors.New("it has not been opened")
}

// all returns the problems as sentences.
func (p *problems) all() []string {
	var out []string
	for _, err := range p.errs {
		if err != nil {
			out = append(out, err.Error())
		}
	}
	return append(out, p.warnings...)
}
