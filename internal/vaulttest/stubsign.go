package vaulttest

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"strconv"
	"strings"
)

// signing is one signature to be made. A fault changes it.
type signing struct {
	item    int    // of a batch
	version int    // of the key
	label   int    // in the signature; 0: the version
	input   []byte // hashed, if the type of the key wants it
	jws     bool
	cut     bool
	err     string
}

var hashes = map[string]crypto.Hash{"sha2-256": crypto.SHA256, "sha2-384": crypto.SHA384, "sha2-512": crypto.SHA512}

// sign answers transit/sign/NAME and transit/sign/NAME/HASH.
func (s *Stub) sign(call Request, fault func(*signing)) answer {
	name, algorithm, _ := strings.Cut(strings.TrimPrefix(call.Path, s.config.Mount+"/sign/"), "/")
	for _, more := range []string{field(call.Body, "hash_algorithm"), field(call.Body, "algorithm"), "sha2-256"} {
		if algorithm == "" {
			algorithm = more
		}
	}
	marshaling := field(call.Body, "marshaling_algorithm")
	key, hash := s.keys[name], hashes[algorithm]
	switch {
	case hash == 0:
		return refuse(http.StatusBadRequest, fmt.Sprintf("invalid hash algorithm %q", algorithm))
	case marshaling != "" && marshaling != "asn1" && marshaling != "jws":
		return refuse(http.StatusBadRequest, fmt.Sprintf("invalid marshaling type %q", marshaling))
	case key == nil:
		return refuse(http.StatusBadRequest, "encryption key not found")
	case !key.signs():
		return refuse(http.StatusBadRequest, fmt.Sprintf("key type %s does not support signing", key.typ))
	}
	items, batch := call.Body["batch_input"].([]any)
	switch {
	case batch && len(items) == 0:
		return refuse(http.StatusBadRequest, "missing batch input to process")
	case !batch:
		items = []any{map[string]any{"input": field(call.Body, "input")}}
	}
	version, _ := call.Body["key_version"].(float64)
	var results []any
	for i, item := range items {
		item, _ := item.(map[string]any)
		signature, version, err := s.signItem(key, hash, call.Body, item, signing{item: i, version: int(version), jws: marshaling == "jws"}, fault)
		switch {
		case !batch && strings.HasPrefix(err, "unable to decode"):
			return refuse(http.StatusBadRequest, err)
		case !batch && err != "": // so it answers to a bad key version too
			return refuse(http.StatusInternalServerError, "1 error occurred:\n\t* "+err+"\n\n")
		}
		result := map[string]any{"key_version": version}
		if err != "" {
			result["error"] = err
		} else {
			result["signature"] = signature
		}
		if batch {
			result["reference"] = field(item, "reference")
		}
		results = append(results, result)
	}
	if !batch {
		return envelope(results[0].(map[string]any), nil)
	}
	return envelope(map[string]any{"batch_results": results}, nil)
}

func (s *Stub) signItem(key *stubKey, hash crypto.Hash, options, item map[string]any, sign signing, fault func(*signing)) (signature string, version int, problem string) {
	encoded, ok := item["input"].(string)
	if !ok {
		return "", 0, "missing input"
	}
	input, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", 0, "unable to decode input as base64: " + err.Error()
	}
	if prehashed, _ := options["prehashed"].(bool); !prehashed && key.typ != "ed25519" {
		h := hash.New()
		h.Write(input)
		input = h.Sum(nil)
	}
	if sign.version, problem = key.pick(sign.version); problem != "" {
		return "", 0, problem
	}
	sign.input = input
	if fault != nil {
		fault(&sign)
	}
	if sign.version < 1 || sign.version > len(key.versions) {
		return "", 0, "no such key version"
	}
	if sign.err != "" {
		return "", 0, sign.err
	}
	raw, err := signRaw(key.versions[sign.version-1].signer, hash, options, sign)
	if err != nil {
		return "", 0, err.Error()
	}
	if sign.cut {
		raw = raw[:len(raw)-1]
	}
	label := sign.version
	if sign.label != 0 {
		label = sign.label
	}
	encoding := base64.StdEncoding
	if sign.jws {
		encoding = base64.RawURLEncoding
	}
	return "vault:v" + strconv.Itoa(label) + ":" + encoding.EncodeToString(raw), sign.version, ""
}

func signRaw(signer crypto.Signer, hash crypto.Hash, options map[string]any, sign signing) ([]byte, error) {
	switch key := signer.(type) {
	case *ecdsa.PrivateKey:
		der, err := ecdsa.SignASN1(rand.Reader, key, sign.input)
		if err != nil || !sign.jws {
			return der, err
		}
		var pair struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(der, &pair); err != nil {
			return nil, err
		}
		size := (key.Curve.Params().BitSize + 7) / 8
		raw := make([]byte, 2*size)
		pair.R.FillBytes(raw[:size])
		pair.S.FillBytes(raw[size:])
		return raw, nil
	case ed25519.PrivateKey:
		return ed25519.Sign(key, sign.input), nil
	case *rsa.PrivateKey:
		if field(options, "signature_algorithm") == "pkcs1v15" {
			return rsa.SignPKCS1v15(rand.Reader, key, hash, sign.input)
		}
		salt := rsa.PSSSaltLengthAuto
		if field(options, "salt_length") == "hash" {
			salt = rsa.PSSSaltLengthEqualsHash
		}
		return rsa.SignPSS(rand.Reader, key, hash, sign.input, &rsa.PSSOptions{SaltLength: salt})
	}
	return nil, fmt.Errorf("unsupported key type %T", signer)
}

// crypt answers transit/encrypt/NAME and transit/decrypt/NAME.
func (s *Stub) crypt(call Request) answer {
	name := call.Path[strings.LastIndexByte(call.Path, '/')+1:]
	key := s.keys[name]
	switch {
	case key == nil:
		return refuse(http.StatusBadRequest, "encryption key not found")
	case key.typ != "aes256-gcm96":
		return refuse(http.StatusBadRequest, fmt.Sprintf("the stub does not encrypt with keys of type %s", key.typ))
	}
	associated, err := base64.StdEncoding.DecodeString(field(call.Body, "associated_data"))
	if err != nil {
		return refuse(http.StatusBadRequest, "failed to base64-decode associated_data")
	}
	if call.Class == Decrypt {
		return key.decrypt(field(call.Body, "ciphertext"), associated)
	}
	plain, err := base64.StdEncoding.DecodeString(field(call.Body, "plaintext"))
	if err != nil {
		return refuse(http.StatusBadRequest, "failed to base64-decode plaintext")
	}
	gcm := key.versions[len(key.versions)-1].gcm()
	nonce := make([]byte, gcm.NonceSize())
	rand.Read(nonce)
	sealed := gcm.Seal(nonce, nonce, plain, associated)
	ciphertext := fmt.Sprintf("vault:v%d:%s", len(key.versions), base64.StdEncoding.EncodeToString(sealed))
	return envelope(map[string]any{"ciphertext": ciphertext, "key_version": len(key.versions)}, nil)
}

func (k *stubKey) decrypt(ciphertext string, associated []byte) answer {
	rest, ok := strings.CutPrefix(ciphertext, "vault:v")
	label, encoded, found := strings.Cut(rest, ":")
	version, err := strconv.Atoi(label)
	switch {
	case !ok:
		return refuse(http.StatusBadRequest, "invalid ciphertext: no prefix")
	case !found || err != nil || version < 1:
		return refuse(http.StatusBadRequest, "invalid ciphertext: wrong number of fields")
	case version > len(k.versions):
		return refuse(http.StatusBadRequest, "invalid ciphertext: version is too new")
	case version < k.minDecryption:
		return refuse(http.StatusBadRequest, "ciphertext or signature version is disallowed by policy (too old)")
	}
	sealed, err := base64.StdEncoding.DecodeString(encoded)
	gcm := k.versions[version-1].gcm()
	if err != nil || len(sealed) < gcm.NonceSize() {
		return refuse(http.StatusBadRequest, "invalid ciphertext: could not decode base64")
	}
	plain, err := gcm.Open(nil, sealed[:gcm.NonceSize()], sealed[gcm.NonceSize():], associated)
	if err != nil {
		return refuse(http.StatusBadRequest, err.Error())
	}
	return envelope(map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plain)}, nil)
}

func (v stubVersion) gcm() cipher.AEAD {
	block, err := aes.NewCipher(v.secret)
	if err != nil {
		panic(err) // the stub made the key
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm
}
