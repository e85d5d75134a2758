"""Batches of row numbers: tuples of arrays in training, users in validation."""


class Loader:
    def __init__(self, size, batch_size):
        self.dataset, self.batch_size = range(size), batch_size

    def __iter__(self):
        for first in range(0, len(self.dataset), self.batch_size):
            yield (self.dataset[first : first + self.batch_size],)


class UserLoader(Loader):
    def __iter__(self):
        return (users for (users,) in super().__iter__())


class BertDataloader:
    def __init__(self, args, counts):
        args.num_items, args.num_attributes = counts['items'], counts['attributes']
        self.train = Loader(counts['windows'], args.train_batch_size)
        self.users = UserLoader(counts['users'], 256)

    def get_pytorch_dataloaders(self):
        return self.train, self.users, self.users
