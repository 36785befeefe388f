package keys

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/workload-sts/sts/jose"
)

// How long what is read from a file counts: it is looked at again after about
// three quarters of that, when the keys are needed, and once in fileCooldown if a
// key is missing.
const (
	fileAge      = 8 * time.Second
	fileCooldown = time.Second
)

// defaultHint is how often a bundle that gives no hint is looked at [SPIFFE Trust
// Domain and Bundle §6.1].
const defaultHint = 5 * time.Minute

// parse reads a key set, or a bundle if the source is one. The age of a key set
// is not known.
func (s *remoteSource) parse(body []byte) (fetched, error) {
	var out fetched
	var err error
	if s.Kind() == ByBundle {
		var b jose.Bundle
		b, out.skipped, err = jose.ParseBundle(body)
		if out.keys, out.sequence, out.maxAge = b.Keys, b.Sequence, defaultHint; b.RefreshHint > 0 {
			out.maxAge = bounded(b.RefreshHint)
		}
	} else {
		out.keys, out.skipped, err = jose.ParseKeySet(body)
	}
	if err != nil {
		return out, fmt.Errorf("its key set: %w", err)
	}
	if out.keys.Len() == 0 {
		return out, errors.Join(errors.New("its key set has no key that can be used"), errors.Join(out.skipped...))
	}
	return out, nil
}

// read reads the file with the keys. Its content, should it be another file than
// meant, is in no error.
func (s *remoteSource) read(limit int64) (fetched, error) {
	body, err := readFile(s.file(), limit)
	if err != nil {
		return fetched{}, fmt.Errorf("reading its keys: %w", err)
	}
	out, err := s.parse(body)
	out.maxAge = fileAge
	return out, err
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case info.Size() > limit:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return readAll(f, limit)
}

// readToken reads the token of a service account. What is not a JWT is not
// returned, so that no other file of this machine is ever sent anywhere because
// of a path that somebody wrote.
func readToken(path string) (string, error) {
	b, err := readFile(path, jose.MaxTokenSize)
	if err != nil {
		return "", fmt.Errorf("reading the token of this service: %w", err)
	}
	token := strings.TrimSpace(string(b))
	jws, err := jose.Parse(token)
	if err == nil {
		_, err = jws.Claims()
	}
	if err != nil {
		return "", fmt.Errorf("%s holds no JWT, and nothing else is sent", path)
	}
	return token, nil
}
